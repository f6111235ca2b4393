"""Evaluation suites: from a row to requests, to its scores, to metrics."""
