"""The methods and the data that ship with the package, found by looking into its rooms."""

from alignjax import algorithms, data, worlds
from alignjax.core import modules
from alignjax.data import corpus
from alignjax.training import method


def methods() -> list[type[method.MethodConfig]]:
    """Configuration classes of all methods: those that ship, and others that are imported."""
    modules.of(algorithms)
    return method.all_configs()


def data_configs() -> list[type[corpus.DataConfig]]:
    """Configuration classes of all data, likewise."""
    for package in (data, worlds):
        modules.of(package)
    return sorted(corpus.DataConfig.__subclasses__(), key=lambda kind: kind.__name__)
