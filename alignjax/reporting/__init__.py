"""The table, page and figures of a lifecycle."""
