"""A config file: a Python file whose `get_config(arg)` returns a mutable dataclass."""

import contextlib
import dataclasses
import difflib
import inspect
import math
import pathlib
import re
import traceback
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from alignjax.cli import experiment_files, outcome
from alignjax.core import source_file, untrusted

WORDS: dict[Any, str] = {int: "an integer", float: "a finite number", bool: "true or false"}


class Field(NamedTuple):
    """A field of a configuration."""

    type: Any
    value: Any
    comment: str

    @property
    def is_node(self) -> bool:
        """Whether the value has fields of its own."""
        return dataclasses.is_dataclass(self.value)

    @property
    def holds_fields(self) -> bool:
        """The same, or it may get such a value."""
        may = any(map(dataclasses.is_dataclass, (self.type, *typing.get_args(self.type))))
        return self.is_node or (may and typing.get_origin(self.type) is not tuple)


def one_line_error(text: str) -> ValueError:
    """The ValueError of a text, on one line."""
    return ValueError(outcome.one_line(text))


def nearest(name: str, names: Iterable[str]) -> str:
    """The name that was probably meant, or "". The last part counts most: lr is learning_rate."""

    def score(other: str) -> float:
        (above, _, own), (parent, _, leaf) = name.rpartition("."), other.rpartition(".")
        words = leaf.split("_")
        alike = difflib.SequenceMatcher(None, own, leaf).ratio()
        if own == "".join(word[0] for word in words if word):
            alike = 0.95
        elif len(own) > 2 and (leaf.startswith(own) or own in words):
            alike = max(alike, 0.9)
        return alike + 0.3 * difflib.SequenceMatcher(None, above, parent).ratio()

    best = max(names, key=score, default="")
    return best if best and score(best) >= 0.75 else ""


def words(kind: Any, known: Mapping[Any, str] = WORDS) -> str:
    """A type in words."""
    plain = kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
    return known.get(kind, plain)


def fits(kind: Any, value: Any) -> bool:
    """Whether a value is of an annotated type; an integer may stand for a float."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(fits(option, value) for option in args)
    if origin is typing.Literal:
        return value in args
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = args[:1] * len(value) if args[-1] is Ellipsis else args
        return len(kinds) == len(value) and all(map(fits, kinds, value))
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    kind = origin or (types.NoneType if kind is None else kind)
    return not isinstance(kind, type) or isinstance(value, kind)


def is_finite(value: Any) -> bool:
    """Whether a value, or all of a tuple, is no infinite or undefined number."""
    if isinstance(value, tuple):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def comments(node: Any) -> dict[str, str]:
    """The comments beside the fields of a dataclass."""
    with contextlib.suppress(OSError, TypeError):
        lines = inspect.getsource(type(node)).splitlines()
        matches = [
            re.match(r"\s+(\w+):[^#\"']*(?:\"[^\"]*\"[^#]*)?#\s*(.*)", line) for line in lines
        ]
        return {match[1]: match[2] for match in matches if match}
    return {}


def walk(node: Any, path: str, where: str) -> dict[str, Field]:
    """The fields of a configuration by path, e.g. "config.optim.learning_rate".

    Raises:
      ValueError: a value is not of its field's type, or an attribute was set that is no field.
    """
    if getattr(type(node), "__dataclass_params__").frozen:  # noqa: B009
        raise one_line_error(f"{path} must be a mutable dataclass; got a frozen one ({where}).")
    fields, notes = {}, comments(node)
    for field in dataclasses.fields(node):
        name, value = f"{path}.{field.name}", getattr(node, field.name)
        if isinstance(field.type, str):
            raise one_line_error(
                f"{name} must have a type, not text; got {field.type!r} ({where}). "
                "Leave out `from __future__ import annotations`."
            )
        if not fits(field.type, value):
            raise one_line_error(f"{name} must be {words(field.type)}; got {value!r} ({where}).")
        fields[name] = Field(field.type, value, notes.get(field.name, ""))
        if fields[name].is_node:
            fields |= walk(value, name, where)
    for name in set(vars(node)) - {field.name for field in dataclasses.fields(node)}:
        meant = nearest(f"{path}.{name}", fields)
        raise one_line_error(
            f"{path}.{name} must be a field of {type(node).__name__}; it is set to no effect "
            f"({where})." + (f" Did you mean {meant}?" if meant else "")
        )
    return fields


def load(spec: str) -> tuple[types.ModuleType, Any, dict[str, Field]]:
    """(module, configuration, its fields) of FILE or FILE:VARIANT, or of an experiment's name.

    Raises:
      ValueError: no such file, it fails, get_config refuses the variant, or a field is wrong.
    """
    path, colon, variant = spec.partition(":")
    file = experiment_files.locate(path).absolute()
    try:
        source = untrusted.read_bytes(file, untrusted.OPTION)
    except (OSError, ValueError) as error:
        others = [p.name for p in file.parent.glob("*.py")] if file.parent.is_dir() else []
        near = [str(pathlib.Path(path).parent / n) for n in close(file.name, others)]
        near = near or close(file.stem, experiment_files.names())
        hint = f" Did you mean {near[0]}?" if near else " alignjax experiments lists them."
        reason = getattr(error, "strerror", None) or str(error)
        raise one_line_error(
            f"--config must be a readable Python file or the name of an experiment; got {path!r}: "
            f"{reason}.{hint}"
        ) from None
    with contextlib.ExitStack() as stack:
        try:
            module = stack.enter_context(source_file.running(file, source))
            if not callable(module.__dict__.get("get_config")):
                raise ValueError("the file must define get_config(arg: str = ''); got none.")
            config = module.__dict__["get_config"](*([variant] if colon else []))
            if not dataclasses.is_dataclass(config) or isinstance(config, type):
                raise ValueError(
                    f"get_config must return a dataclass's instance; got {type(config).__name__}."
                )
        except (Exception, SystemExit) as error:
            raise one_line_error(blame(error, file, spec)) from error
        return module, config, walk(config, "config", spec)


def close(name: str, others: Iterable[str]) -> list[str]:
    """The one that was probably meant, or none."""
    return difflib.get_close_matches(name, list(others), n=1)


def variants(module: types.ModuleType) -> str:
    """The variants of a config file, as its get_config names them when it refuses one, or ""."""
    try:
        module.__dict__["get_config"]("no variant")
    except Exception as error:
        found = re.search(r"the variants are (.+); got", str(error))
        return found[1] if found else ""
    return ""


def blame(error: BaseException, file: pathlib.Path, spec: str) -> str:
    """The message of an error in a config file, with the file and line where it arose."""
    place, line = file, 0
    for frame in traceback.extract_tb(error.__traceback__):
        if file.parent in pathlib.Path(frame.filename).parents:
            place, line = pathlib.Path(frame.filename), frame.lineno or 0
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError) and error.filename:
        place, line = pathlib.Path(error.filename), error.lineno or 0
        message = f"{type(error).__name__}: {error.msg}"
    elif isinstance(error, ValueError):
        message = str(error)
    return f"--config={spec} can't be used: {message} ({place}{f', line {line}' if line else ''})"
