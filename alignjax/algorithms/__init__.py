"""One file a method: a config, closures over its models, and the record that the rest reads."""

from typing import TYPE_CHECKING

from alignjax.core import modules
from alignjax.training import method

if not TYPE_CHECKING:
    __getattr__ = modules.at_first_use(__name__)


def default() -> method.MethodConfig:
    """The method of an experiment that names none: it needs no earlier run."""
    from alignjax.algorithms import pretrain

    return pretrain.PretrainConfig()
