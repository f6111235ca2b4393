"""What tests of runs on ChainWorld start from."""

from tests.rollouts.chain_runs import chain_start

__all__ = ["chain_start"]
