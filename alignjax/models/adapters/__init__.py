"""Adapters: small trained parts over frozen weights, as Models that every algorithm can train."""

from typing import TYPE_CHECKING

from alignjax.core import modules

if not TYPE_CHECKING:
    __getattr__ = modules.at_first_use(__name__)
