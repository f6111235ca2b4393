"""One thin file a command: `options`, `needs_config`, and `main(parsed) -> exit code or None`."""
