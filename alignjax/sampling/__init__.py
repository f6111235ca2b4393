"""Sampling: what is drawn, and the log-probability under the law it was drawn from."""
