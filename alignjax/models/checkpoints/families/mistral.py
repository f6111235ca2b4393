"""Mistral 7B."""

from typing import Any

from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.families import common
from alignjax.models.checkpoints.hf_config import Fields, kinds, rope_fields
from alignjax.models.config import TransformerConfig


def config(fields: Fields) -> TransformerConfig:
    """Mistral 7B (Jiang et al. 2023): a sliding window on all layers, or, with null, on none."""
    common.silu(fields)
    theta, scaling = rope_fields(fields, 10000.0)
    shape = common.shape(fields, kv_heads=8)
    window = fields.nullable("sliding_window", 4096)
    own = Fields({"sliding_window": window}, fields.where)
    seen = common.windowed(own, ["full" if window is None else "sliding"], 1)
    if kinds(fields, list(seen["attention"]), shape["layers"]) != seen["attention"]:
        raise fields.error("layer_types", f"all be of one kind, {seen['attention'][0]}", "others")
    return TransformerConfig(**shape, **seen, rope_theta=theta, rope=scaling)


def describe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Mistral."""
    return {
        **common.described(config, "mistral", "MistralForCausalLM"),
        "sliding_window": config.window if "sliding" in config.kinds() else None,
    }


FAMILY = names.Family(
    config=config,
    describe=describe,
    sources=names.sources,
)
