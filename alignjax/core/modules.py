"""The modules of a package, imported without a list of them."""

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from types import ModuleType


def of(package: ModuleType) -> list[ModuleType]:
    """Every module that lies directly in a package, in the order of their names."""
    names = sorted(info.name for info in pkgutil.iter_modules(package.__path__))
    return [importlib.import_module(f"{package.__name__}.{name}") for name in names]


def at_first_use(package: str) -> Callable[[str], ModuleType]:
    """The `__getattr__` of a package (PEP 562) whose modules are imported as attributes of it.

    Raises:
      AttributeError: (of what is returned) it has no module of that name.
    """

    def find(name: str) -> ModuleType:
        full = f"{package}.{name}"
        if name.startswith("_") or importlib.util.find_spec(full) is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return importlib.import_module(full)

    return find
