"""Sampled completions in groups: drawn, scored, selected, credited, and made rows to train on."""

from typing import TYPE_CHECKING

from alignjax.core import modules

if not TYPE_CHECKING:
    __getattr__ = modules.at_first_use(__name__)
