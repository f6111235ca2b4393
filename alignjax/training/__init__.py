"""From an algorithm to a trained state: one update, the loop that one can call, and the loop in a
run's folder."""

from alignjax.training.annotation import annotated
from alignjax.training.stepping import initial_state, steps

__all__ = ["annotated", "initial_state", "steps"]
