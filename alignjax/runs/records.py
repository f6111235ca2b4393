"""A run's record: its configuration as JSON that outlives a release.

Every configuration carries the tag of its class, and the record a format number. A field that an
older record lacks takes its class's default and is named in a note; a field that its class lacks is
refused by name.
"""

import collections.abc
import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from alignjax.core import source_file

# Formats: 1 had no tags of classes; runs of 1 and 2 drew their samples with a key a step for all
# rows, since 3 every row has its own.
FORMAT = 3
TAGGED, ROW_KEYS = 2, 3  # the formats that brought these
CLASS, FILE = "class", "from"  # words of Python: no field is called so
PLAIN = (dict, Mapping, Any)  # types of mappings that are no configurations


def tag(kind: type) -> dict[str, str]:
    """The tag of a class in a record: its name, and its file where no module can be imported."""
    if "." in kind.__qualname__:
        raise ValueError(
            f"a configuration's class must stand at the top of its file; got {kind.__qualname__} "
            f"in {kind.__module__}. Move it out of the function or class around it, or no other "
            "process can find it."
        )
    file = source_file.file_of(kind)
    return {CLASS: f"{kind.__module__}.{kind.__qualname__}", **({FILE: file} if file else {})}


def encode(value: Any) -> Any:
    """A configuration as JSON: dataclasses as objects with their tags, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {**tag(type(value)), **fields}
    if isinstance(value, Mapping):
        return {str(name): encode(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [encode(entry) for entry in value]
    if isinstance(value, np.generic):  # a NumPy number, as config files come by them
        return value.item()
    return value.__qualname__ if isinstance(value, types.FunctionType) else value


def decode(value: Any, hint: Any, note: Callable[[str], None], path: str = "config") -> Any:
    """The configuration that `encode` wrote.

    Args:
      hint: the expected type. note: called with a line for every absent field, which takes its
        default.

    Raises:
      ValueError: a class is not there or not of the type, or a field is unknown or missing.
    """
    options = _options(hint)
    if isinstance(value, list):
        return _sequence(value, options, note, path)
    if not isinstance(value, Mapping):
        if all(hasattr(option, "validate") for option in options):
            _check_kind(None, options, repr(value), path)
        return value
    plain = next((option for option in options if _origin(option) in PLAIN), None)
    if plain is not None and (CLASS not in value or plain is not Any):
        entry = typing.get_args(plain)[1] if typing.get_args(plain) else Any
        return {name: decode(v, entry, note, f"{path}.{name}") for name, v in value.items()}
    named = dict(value)
    name, file = named.pop(CLASS, ""), named.pop(FILE, "")
    kind = source_file.find(name, file) if name else hint
    _check_kind(kind, options, name or "no class", path)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = [field for field in named if field not in fields]
    if unknown:
        raise ValueError(
            f"{path} must have the fields of {kind.__name__}; the record also has "
            f"{', '.join(unknown)}, which this release does not know. Use the release that made it."
        )
    _note_defaults(fields, named, note, path)
    hints = typing.get_type_hints(kind)
    return kind(
        **{
            field: decode(entry, hints[field], note, f"{path}.{field}")
            for field, entry in named.items()
        }
    )


def _note_defaults(
    fields: Mapping[str, Any], named: Mapping[str, Any], note: Callable[[str], None], path: str
) -> dict[str, Any]:
    """The defaults of the fields that a record does not have.

    Raises:
      ValueError: one has none.
    """
    defaults = {}
    for name, field in fields.items():
        if name in named:
            continue
        if field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(
                f"{path}.{name} must be in the record; it is missing and has no default "
                "(config.json). Add it there."
            )
        has_value = field.default is not dataclasses.MISSING
        defaults[name] = field.default if has_value else field.default_factory()
        shown = repr(defaults[name])
        note(f"{path}.{name} is not in the record and takes its default, {shown}.")
    return defaults


def filled(value: Any, note: Callable[[str], None], path: str = "config") -> Any:
    """The JSON of a record with the defaults of the fields that it does not have."""
    if isinstance(value, list):
        return [filled(entry, note, f"{path}.{i}") for i, entry in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    values = {name: filled(entry, note, f"{path}.{name}") for name, entry in value.items()}
    if CLASS not in values:
        return values
    kind = source_file.find(values[CLASS], values.get(FILE, ""))
    _check_kind(kind, (Any,), values[CLASS], path)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    return {**values, **encode(_note_defaults(fields, values, note, path))}


def _options(hint: Any) -> tuple[Any, ...]:
    """The types that a hint allows."""
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return typing.get_args(hint) if is_union else (hint,)


def _origin(hint: Any) -> Any:
    origin = typing.get_origin(hint) or hint
    return Mapping if origin is collections.abc.Mapping else origin


def _check_kind(kind: Any, options: tuple[Any, ...], name: str, path: str) -> None:
    allowed = tuple(option for option in options if isinstance(option, type) and option is not Any)
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        raise ValueError(
            f"{path} must be the configuration of a known class; got {name} (config.json). "
            "Restore the record from a checkpoint's meta."
        )
    if allowed and not issubclass(kind, allowed):
        wanted = " or ".join(option.__name__ for option in allowed)
        raise ValueError(
            f"{path} must be a {wanted}; got {name} (config.json). Use the release that made it."
        )


def _sequence(
    value: list[Any], options: tuple[Any, ...], note: Callable[[str], None], path: str
) -> list[Any] | tuple[Any, ...]:
    """A list, or a tuple where none is expected; its entries of the types that are expected."""
    hint = next((option for option in options if _origin(option) in (list, tuple)), tuple)
    args = typing.get_args(hint) or (Any, ...)
    same = _origin(hint) is list or args[-1] is ...
    kinds = args[:1] * len(value) if same else (*args, *[Any] * len(value))
    entries = [
        decode(entry, kind, note, f"{path}.{i}")
        for i, (entry, kind) in enumerate(zip(value, kinds, strict=False))
    ]
    return entries if _origin(hint) is list else tuple(entries)


def flat(config: Any, *, files: bool = False) -> dict[str, Any]:
    """A configuration as {"loop.steps": 100, ...}, without the files of its classes, or with."""

    def walk(node: Any, prefix: str) -> dict[str, Any]:
        if not isinstance(node, dict):
            return {prefix[:-1]: node}
        items: dict[str, Any] = {}
        for name, child in node.items():
            if files or not (name == FILE and CLASS in node):
                items |= walk(child, f"{prefix}{name}.")
        return items

    return walk(as_json(encode(config)), "")


def as_json(value: Any) -> Any:
    """The value as it is after being written and read again: tuples are lists."""
    return json.loads(json.dumps(value))


def check_format(record: Mapping[str, Any], where: str) -> None:
    """Raises ValueError where a newer release made the record."""
    number = record.get("format", 1)
    if not isinstance(number, int) or number > FORMAT:
        raise ValueError(
            f"the record of {where} must have a format up to {FORMAT}; got {number}, of a newer "
            "release. Install that, or name another folder."
        )
