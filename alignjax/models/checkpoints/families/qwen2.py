"""Qwen 2 and 2.5."""

from typing import Any

from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.families import common
from alignjax.models.checkpoints.hf_config import Fields, rope_fields
from alignjax.models.config import TransformerConfig


def shared(fields: Fields, **more: Any) -> TransformerConfig:
    common.silu(fields)
    theta, scaling = rope_fields(fields, 10000.0)
    shape = common.shape(fields, head_dim=more.pop("head_dim", None), kv_heads=32)
    slides, first = fields.flag("use_sliding_window", False), fields.take("max_window_layers", 28)
    if slides and (isinstance(first, bool) or not isinstance(first, int)):
        raise fields.error("max_window_layers", "be a whole number", repr(first))
    default = ["sliding" if slides and n >= first else "full" for n in range(shape["layers"])]
    seen = common.windowed(fields, default, shape["layers"], window=4096)
    if "sliding" in seen["attention"] and not slides:
        raise fields.error("use_sliding_window", "be true where layer_types slide", "false")
    return TransformerConfig(**shape, **seen, **more, rope_theta=theta, rope=scaling)


def config(fields: Fields) -> TransformerConfig:
    """Qwen 2 and 2.5 (Yang et al. 2024): biases on queries, keys and values."""
    return shared(fields, qkv_bias=True)


def described_window(config: TransformerConfig) -> dict[str, Any]:
    slides = "sliding" in config.kinds()
    window = {"use_sliding_window": slides, "sliding_window": config.window if slides else None}
    return {**window, **common.layer_types(config)}


def describe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Qwen 2."""
    return {**common.described(config, "qwen2", "Qwen2ForCausalLM"), **described_window(config)}


FAMILY = names.Family(
    config=config,
    describe=describe,
    sources=names.sources,
)
