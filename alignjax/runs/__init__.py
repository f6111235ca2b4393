"""Runs: configuration, assembly, training, the folder on disk, and reading it back."""

from typing import TYPE_CHECKING

from alignjax.core import modules

if not TYPE_CHECKING:
    __getattr__ = modules.at_first_use(__name__)
