"""Reward functions: learned models, and rules on the host; see `learned.RewardFn`."""
