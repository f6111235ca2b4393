"""SmolLM3."""

from typing import Any

from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.families import common
from alignjax.models.checkpoints.hf_config import Fields, kinds, period, rope_fields
from alignjax.models.config import TransformerConfig


def config(fields: Fields) -> TransformerConfig:
    """SmolLM3: Llama with layers that have no positions."""
    common.silu(fields)
    bias = fields.flag("attention_bias", False)
    theta, scaling = rope_fields(fields, 2000000.0)
    shape = common.shape(fields, tied=True, kv_heads=4)
    count = shape["layers"]
    every = fields.size("no_rope_layer_interval", 4)
    turns = fields.take("no_rope_layers", None)
    turns = [int((n + 1) % every != 0) for n in range(count)] if turns is None else turns
    if not isinstance(turns, list) or len(turns) != count or set(map(str, turns)) - {"0", "1"}:
        raise fields.error("no_rope_layers", f"say 0 or 1 of all {count} layers", repr(turns))
    fields.only("use_sliding_window", False)
    fields.take("sliding_window", None)
    if kinds(fields, ["full"] * count, count) != ("full",):
        raise fields.error("layer_types", "be full_attention in all layers", "others")
    return TransformerConfig(
        **shape,
        rope_theta=theta,
        rope=scaling,
        attention=period(["full" if turn else "nope" for turn in turns]),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
    )


def describe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a SmolLM3."""
    return {
        **common.described(config, "smollm3", "SmolLM3ForCausalLM"),
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
        "use_sliding_window": False,
        "layer_types": ["full_attention"] * config.layers,
        "no_rope_layers": [int(kind != "nope") for kind in config.kinds()],
    }


FAMILY = names.Family(
    config=config,
    describe=describe,
    sources=names.sources,
)
