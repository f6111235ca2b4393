"""Reward functions: learned models, and rules on the host; see `learned.RewardFn`."""

from typing import TYPE_CHECKING

from alignjax.core import modules

if not TYPE_CHECKING:
    __getattr__ = modules.at_first_use(__name__)
