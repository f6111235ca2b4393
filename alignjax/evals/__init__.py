"""Evaluations of trained models: every number with its standard error."""
