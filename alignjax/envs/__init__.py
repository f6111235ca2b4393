"""Environments: what answers a policy, turn by turn, and pays it."""
