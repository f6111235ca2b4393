"""Runs: configuration, assembly, training, the folder on disk, and reading it back."""
