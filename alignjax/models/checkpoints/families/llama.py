"""Llama 2, 3, 3.1, 3.2 (text) and 3.3; SmolLM2."""

from typing import Any

from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.families import common
from alignjax.models.checkpoints.hf_config import Fields, rope_fields
from alignjax.models.config import TransformerConfig


def config(fields: Fields) -> TransformerConfig:
    """Llama 2 and 3, SmolLM2 (Touvron et al. 2023; Dubey et al. 2024)."""
    common.silu(fields)
    bias = fields.flag("attention_bias", False)
    context = fields.take("max_position_embeddings", 2048)
    theta, scaling = rope_fields(fields, 10000.0, more=("dynamic",), context=context)
    return TransformerConfig(
        **common.shape(fields),
        rope_theta=theta,
        rope=scaling,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
    )


def describe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Llama."""
    return {
        **common.described(config, "llama", "LlamaForCausalLM"),
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
    }


FAMILY = names.Family(
    config=config,
    describe=describe,
    sources=names.sources,
)
