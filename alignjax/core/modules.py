"""The modules of a package, imported without a list of them."""

import importlib
import pkgutil
from types import ModuleType


def of(package: ModuleType) -> list[ModuleType]:
    """Every module that lies directly in a package, in the order of their names."""
    names = sorted(info.name for info in pkgutil.iter_modules(package.__path__))
    return [importlib.import_module(f"{package.__name__}.{name}") for name in names]
