"""One file a method: a config, closures over its models, and the record that the rest reads."""

from alignjax.training import method


def default() -> method.MethodConfig:
    """The method of an experiment that names none: it needs no earlier run."""
    from alignjax.algorithms import pretrain

    return pretrain.PretrainConfig()
