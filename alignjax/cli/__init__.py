"""From a command line to a checked configuration, and from an outcome to an exit code."""
