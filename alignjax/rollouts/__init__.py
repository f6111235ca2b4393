"""Sampled completions in groups: drawn, scored, selected, credited, and made rows to train on."""
