"""All methods and data, collected from the modules of algorithms/, data/ and worlds/."""

from alignjax import algorithms, data, worlds
from alignjax.core import modules
from alignjax.data import corpus
from alignjax.training import method


def methods() -> list[type[method.MethodConfig]]:
    """Configuration classes of all methods, of this package and of imported files."""
    modules.of(algorithms)
    return method.all_configs()


def data_configs() -> list[type[corpus.DataConfig]]:
    """Configuration classes of all data, of this package and of imported files."""
    for package in (data, worlds):
        modules.of(package)
    return sorted(corpus.DataConfig.__subclasses__(), key=lambda kind: kind.__name__)
