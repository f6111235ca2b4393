"""A run's record: its configuration as JSON that outlives a release.

Every configuration carries the tag of its class, and the whole a format number. What an older
record lacks takes its class's default and is named in a note; what it has and its class does not
is refused by name.
"""

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from alignjax.core import source_file

FORMAT = 2
CLASS, FILE = "class", "file"


def tag(kind: type) -> dict[str, str]:
    """What a record says of a class: its name, and its file where no module can be imported."""
    if "<locals>" in kind.__qualname__:
        raise ValueError(
            f"a configuration's class must stand at the top of its file; got {kind.__qualname__}. "
            "Move it out of the function, or no other process can find it."
        )
    file = source_file.file_of(kind)
    return {CLASS: f"{kind.__module__}.{kind.__qualname__}", **({FILE: file} if file else {})}


def encode(value: Any) -> Any:
    """A configuration as JSON: dataclasses as objects with their tags, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {**tag(type(value)), **fields}
    if isinstance(value, Mapping):
        return {str(name): encode(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [encode(each) for each in value]
    return value


def decode(value: Any, hint: Any, note: Callable[[str], None], path: str = "config") -> Any:
    """The configuration that `encode` wrote.

    Args:
      hint: the type that is expected. note: gets a line for each absent field that takes its
        default.

    Raises:
      ValueError: a class is not there or not of the type, or a field is unknown or missing.
    """
    if not isinstance(value, Mapping):
        return _plain(value, hint)
    named = dict(value)
    name, file = named.pop(CLASS, ""), named.pop(FILE, "")
    kind = source_file.find(name, file) if name else hint
    _check_kind(kind, hint, name, path)
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = [field for field in named if field not in fields]
    if unknown:
        raise ValueError(
            f"{path} must have the fields of {kind.__name__}; the record also has "
            f"{', '.join(unknown)}, which this release does not know. Use the release that made it."
        )
    for field in fields.values():
        if field.name in named:
            continue
        if field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{path}.{field.name} must be in the record; it is missing.")
        note(f"{path}.{field.name} is not in the record and takes its default.")
    return kind(
        **{
            field: decode(each, hints[field], note, f"{path}.{field}")
            for field, each in named.items()
        }
    )


def _check_kind(kind: Any, hint: Any, name: str, path: str) -> None:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    allowed = tuple(each for each in options if isinstance(each, type))
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        raise ValueError(
            f"{path} must be of a known class; got {name or 'no class'} (config.json)."
        )
    if not issubclass(kind, allowed):
        wanted = " or ".join(each.__name__ for each in allowed)
        raise ValueError(f"{path} must be a {wanted}; got {name} (config.json).")


def _plain(value: Any, hint: Any) -> Any:
    """A value that is no configuration: lists are tuples where those are expected."""
    if not isinstance(value, list):
        return value
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    is_list = any(typing.get_origin(each) is list or each is list for each in options)
    return list(value) if is_list else tuple(value)


def flat(config: Any) -> dict[str, Any]:
    """A configuration as {"loop.steps": 100, ...}, without the files of its classes."""

    def walk(node: Any, prefix: str) -> dict[str, Any]:
        if not isinstance(node, dict):
            return {prefix[:-1]: node}
        items: dict[str, Any] = {}
        for name, child in node.items():
            if not (name == FILE and CLASS in node):
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
