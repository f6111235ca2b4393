"""Stand-ins for packages that a reference imports and its loss code does not use."""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from typing import Any


class _Open(type):
    """The type of classes that have every attribute: another such class."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return stand_in(name)


def stand_in(name: str) -> type:
    """A class to inherit from, or a decorator, with or without arguments, that does nothing."""

    def __new__(cls: type, *args: Any, **kwargs: Any) -> Any:
        alone = len(args) == 1 and not kwargs and callable(args[0])
        return args[0] if alone else object.__new__(cls)

    names = {"__init__": lambda self, *_, **__: None, "__call__": lambda self, decorated: decorated}
    return _Open(name, (), {"__new__": __new__, **names})


class _Module(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return stand_in(name)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, packages: list[str]) -> None:
        self.packages = packages

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname.split(".")[0] not in self.packages:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing is in it."""


def install(*packages: str) -> None:
    """Makes those of the packages that are not installed importable, as empty shells."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    sys.meta_path.append(_Finder(missing))


def without_init(package: str) -> None:
    """Makes modules of an installed package importable without running its __init__.py."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit(f"{package} must be installed.")
    module = types.ModuleType(package)
    module.__path__ = list(spec.submodule_search_locations)
    sys.modules[package] = module
