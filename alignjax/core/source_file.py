"""Python files of users, run as modules, and the file that defines each of their classes.

An experiment file may define its own method, data or model. Its classes belong to no module that
another process could import, so the file of every class is kept: a run's record names it.
"""

import contextlib
import importlib
import pathlib
import sys
import types
import weakref
from collections.abc import Iterator
from typing import Any

from alignjax.core import untrusted

PACKAGE = pathlib.Path(__file__).parents[1]
MODULE = "alignjax_config_file"  # what a file is called while it runs
_STAND_IN: list[str] = []  # a file in place of those that records name
_FILES: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def importable(file: pathlib.Path) -> Iterator[None]:
    """`from experiments import common` works inside, and leaves no module behind."""
    folder = next((p for p in file.parents if p.name == "experiments"), file.parent)
    root, written = str(folder.parent), sys.dont_write_bytecode
    before = set(sys.modules)
    tops = {"experiments", MODULE}
    if folder.name not in before:
        tops.add(folder.name)
    aside = {n: sys.modules.pop(n) for n in before if n.partition(".")[0] in tops}
    if folder.parent != PACKAGE:  # whose modules' names are not for others to find
        sys.path.insert(0, root)
    if folder.name in tops and not (folder / "__init__.py").exists():
        # Or an installed package of that name would be imported.
        package = types.ModuleType(folder.name)
        package.__path__ = [str(folder)]
        sys.modules[folder.name] = package
    sys.dont_write_bytecode = True  # a .pyc is told from its source by whole seconds only
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.dont_write_bytecode = written
        if root in sys.path:
            sys.path.remove(root)
        for name in [n for n in sys.modules if n.partition(".")[0] in tops]:
            _remember(sys.modules.pop(name))
        sys.modules.update(aside)


@contextlib.contextmanager
def running(file: pathlib.Path, source: bytes) -> Iterator[types.ModuleType]:
    """The module of a file's source, run; what it imports from beside it is there inside."""
    module = types.ModuleType(MODULE)
    module.__file__ = str(file)
    with importable(file):
        sys.modules[MODULE] = module
        exec(compile(source, str(file), "exec"), module.__dict__)
        yield module


def _remember(module: types.ModuleType) -> None:
    file = getattr(module, "__file__", None)
    for value in list(vars(module).values()) if file else []:
        if isinstance(value, type) and value.__module__ == module.__name__:
            _FILES[value] = str(file)


def file_of(kind: type) -> str:
    """The file that defines a class, where no module can be imported for it; else ""."""
    if kind in _FILES:
        return _FILES[kind]
    module = sys.modules.get(kind.__module__)
    if kind.__module__ in (MODULE, "__main__"):
        return str(pathlib.Path(getattr(module, "__file__", None) or "").absolute())
    return ""


def stand_in(file: str) -> None:
    """From now on this file defines the classes of every file that a record names."""
    _STAND_IN[:] = [str(pathlib.Path(file).absolute())]


def find(name: str, file: str = "") -> Any:
    """The class "module.Class", or the class of that last name that a file defines.

    Raises:
      ValueError: there is no such file, module or class.
    """
    module_name, _, own = name.rpartition(".")
    if not file:
        try:
            module: Any = importlib.import_module(module_name)
        except ImportError as error:
            raise ValueError(
                f"the class {name} must be importable; got {error} (config.json). Install what "
                "defines it."
            ) from None
        if not hasattr(module, own):
            raise ValueError(f"the module {module_name} must define {own}; it does not.")
        return getattr(module, own)
    file = _STAND_IN[0] if _STAND_IN else file
    alive = [kind for kind, source in _FILES.items() if source == file and kind.__name__ == own]
    if alive:
        return alive[-1]
    path = pathlib.Path(file)
    if not path.is_file():
        raise ValueError(
            f"the file that defines {own} must be where it was; got nothing at {file} "
            "(config.json). Put it back, or name it with --definitions=FILE."
        )
    with running(path, untrusted.read_bytes(path, untrusted.OPTION)) as module:
        kind = vars(module).get(own)
    if not isinstance(kind, type):
        raise ValueError(f"{file} must define the class {own}; it does not.")
    return kind
