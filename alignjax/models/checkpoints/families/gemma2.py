"""Gemma 2."""

from typing import Any

from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.families import common
from alignjax.models.checkpoints.hf_config import Fields, rope_fields
from alignjax.models.config import TransformerConfig


def cap(fields: Fields, name: str, absent: float | None) -> float:
    """A soft cap; null is none."""
    value = fields.nullable(name, absent)
    return 0.0 if value is None else float(Fields({name: value}, fields.where).number(name))


def shared(fields: Fields, default: list[str], shape: dict[str, Any]) -> dict[str, Any]:
    """What Gemma 2 and 3 share: 1 + scale, norms after branches, scaled embedding, tanh GELU."""
    fields.only("hidden_activation", "gelu_pytorch_tanh")
    fields.only("hidden_act", "gelu_pytorch_tanh")
    fields.only("use_bidirectional_attention", False)
    bias = fields.flag("attention_bias", False)
    return {
        **shape,
        **common.windowed(fields, default, shape["layers"], window=4096),
        "activation": "gelu",
        "norm_plus_one": True,
        "post_norms": True,
        "embed_scale": shape["width"] ** 0.5,
        "query_scale": float(fields.number("query_pre_attn_scalar", 256)) ** -0.5,
        "qkv_bias": bias,
        "out_bias": bias,
    }


def config(fields: Fields) -> TransformerConfig:
    """Gemma 2 (Gemma Team 2024): windows on every other layer, soft caps."""
    shape = common.shape(fields, head_dim=256, kv_heads=4, tied=True)
    default = ["sliding" if n % 2 == 0 else "full" for n in range(shape["layers"])]
    theta, scaling = rope_fields(fields, 10000.0)
    return TransformerConfig(
        **shared(fields, default, shape),
        rope_theta=theta,
        rope=scaling,
        attention_softcap=cap(fields, "attn_logit_softcapping", 50.0),
        logit_softcap=cap(fields, "final_logit_softcapping", 30.0),
    )


def describe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Gemma 2."""
    scalar = config.query_scale**-2 if config.query_scale else config.head_dim
    return {
        **common.described(config, "gemma2", "Gemma2ForCausalLM"),
        **common.layer_types(config),
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": config.qkv_bias,
        "query_pre_attn_scalar": max(1, round(scalar)),
        "sliding_window": config.window or 4096,
        "attn_logit_softcapping": config.attention_softcap or None,
        "final_logit_softcapping": config.logit_softcap or None,
    }


FAMILY = names.Family(
    config=config,
    describe=describe,
    sources=names.sources,
)
