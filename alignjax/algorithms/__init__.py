"""One file a method: a config, closures over its models, and the record that the rest reads."""

from typing import Any


def default() -> Any:
    """The method of an experiment that names none: it needs no earlier run."""
    from alignjax.algorithms import pretrain

    return pretrain.PretrainConfig()
