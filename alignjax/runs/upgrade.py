"""Upgrades of records of older formats to the newest one."""

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import alignjax
from alignjax.models import config as model_config
from alignjax.models.adapters import adapt
from alignjax.runs import kinds, records

Kind = TypeVar("Kind", bound=type)


def upgraded(record: Mapping[str, Any], like: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The record in the newest format. Format 1 had no tags: classes are told by their fields.

    like: a record of today, for those of lifecycles: their classes are the same.
    """
    if "config" not in record:
        return dict(record)
    if record.get("format", 1) >= records.TAGGED:
        return {**record, "format": records.FORMAT}
    config, name = dict(record["config"]), record.get("method")
    if name is None:
        tagged = _like(config, {} if like is None else like["config"])
        return {**record, "format": records.FORMAT, "config": tagged}
    by_name = {kind.METHOD.name: kind for kind in _shipped(kinds.methods())}
    if name not in by_name:
        raise ValueError(
            f"the method of a record of format 1 must be one of {', '.join(by_name)}; got {name} "
            "(config.json). Use the release that made it."
        )
    fields = dataclasses.fields(by_name[name])  # type: ignore[arg-type]
    values = config["algorithm"] if fields else {}
    config["algorithm"] = {**records.tag(by_name[name]), **values}
    config["data"] = _tagged(config["data"], _shipped(kinds.data_configs()))
    config["model"] = _tagged(config["model"], [model_config.TransformerConfig])
    adapters = [kind for kind in typing.get_args(adapt.AdapterConfig)]
    config["adapter"] = _tagged(config.get("adapter", {}), adapters)
    return {**record, "format": records.FORMAT, "config": config}


def _shipped(options: Iterable[Kind]) -> list[Kind]:
    """The package's own classes: no others could be recorded then."""
    return [kind for kind in options if kind.__module__.partition(".")[0] == alignjax.__name__]


def _like(values: Any, like: Any) -> Any:
    """The values with the tags of those at the same places of another record."""
    if not isinstance(values, Mapping) or not isinstance(like, Mapping):
        return values
    tags = {name: like[name] for name in (records.CLASS, records.FILE) if name in like}
    return {**tags, **{name: _like(value, like.get(name)) for name, value in values.items()}}


def _tagged(values: Mapping[str, Any], options: Iterable[type]) -> dict[str, Any]:
    """The values with the tag of the class that has all of their fields and the fewest others."""
    fields = {kind: {f.name for f in dataclasses.fields(kind)} for kind in options}
    fitting = [kind for kind, names in fields.items() if names >= set(values)]
    fewest = min((len(fields[kind]) for kind in fitting), default=0)
    fitting = [kind for kind in fitting if len(fields[kind]) == fewest]
    if len(fitting) != 1:
        names = " and ".join(kind.__name__ for kind in fitting) or "none"
        raise ValueError(
            "a configuration of format 1 must have the fields of one known class; got "
            f"{', '.join(values)}, which fit {names} (config.json). Use the release that made it."
        )
    return {**records.tag(fitting[0]), **values}
