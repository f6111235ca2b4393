"""Experiments: one file each, with its paper, hardware, command and expected numbers."""
