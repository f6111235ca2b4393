"""Ablations: arms and seeds of an experiment file, run side by side and judged together."""
