"""Records of older formats as the newest one has them."""

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from alignjax.models import config as model_config
from alignjax.models.adapters import adapt
from alignjax.runs import kinds, records


def upgraded(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record in the newest format. Format 1 had no tags: classes are told by their fields."""
    if record.get("format", 1) >= records.FORMAT or "config" not in record:
        return dict(record)
    config = dict(record["config"])
    name = record.get("method")
    if name is not None:
        by_name = {kind.METHOD.name: kind for kind in kinds.methods()}
        if name not in by_name:
            raise ValueError(f"the method of a record must be known; got {name} (config.json).")
        fields = dataclasses.fields(by_name[name])  # type: ignore[arg-type]
        values = config["algorithm"] if fields else {}
        config["algorithm"] = {**records.tag(by_name[name]), **values}
    config["data"] = _tagged(config["data"], kinds.data_configs())
    config["model"] = _tagged(config["model"], [model_config.TransformerConfig])
    adapters = [kind for kind in typing.get_args(adapt.AdapterConfig)]
    config["adapter"] = _tagged(config.get("adapter", {}), adapters)
    return {**record, "format": records.FORMAT, "config": config}


def _tagged(values: Mapping[str, Any], options: Iterable[type]) -> dict[str, Any]:
    """The values with the tag of the class that has all of their fields and the fewest others."""
    fields = {kind: {f.name for f in dataclasses.fields(kind)} for kind in options}  # type: ignore[arg-type]
    fitting = [kind for kind, names in fields.items() if names >= set(values)]
    if not fitting:
        raise ValueError(
            f"a configuration must be of a known class; got the fields {', '.join(values)} "
            "(config.json)."
        )
    kind = min(fitting, key=lambda kind: len(fields[kind]))
    return {**records.tag(kind), **values}
