"""The table, page and pictures of a lifecycle."""
