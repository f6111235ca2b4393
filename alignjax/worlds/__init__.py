"""Synthetic worlds whose rewards, log-probabilities and optimal policies are known exactly."""
