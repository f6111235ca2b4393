"""Many answers to a prompt, and one chosen: best-of-n, votes, beams guided step by step."""

from typing import TYPE_CHECKING

from alignjax.core import modules

if not TYPE_CHECKING:
    __getattr__ = modules.at_first_use(__name__)
