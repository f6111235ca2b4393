"""From an algorithm to a trained state: one update, the loop that one can call, and the loop in a
run's folder."""

from alignjax.training.stepping import initial_state, steps

__all__ = ["initial_state", "steps"]
