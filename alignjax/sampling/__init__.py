"""Sampling: completions, and their log-probabilities under the sampled distribution."""
