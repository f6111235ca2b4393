"""From an algorithm to a trained state: one update, the loop that one can call, and the loop in a
run's folder."""

from typing import TYPE_CHECKING

from alignjax.core import modules
from alignjax.training.annotation import annotated
from alignjax.training.stepping import initial_state, steps

if not TYPE_CHECKING:
    __getattr__ = modules.at_first_use(__name__)

__all__ = ["annotated", "initial_state", "steps"]
