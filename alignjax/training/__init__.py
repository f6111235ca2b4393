"""The one loop and its parts: update, optimizer, checkpoints, metrics."""
