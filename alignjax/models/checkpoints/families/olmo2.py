"""OLMo 2."""

from typing import Any

from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.families import common
from alignjax.models.checkpoints.hf_config import Fields, rope_fields
from alignjax.models.config import TransformerConfig


def shared(fields: Fields) -> dict[str, Any]:
    """What OLMo 2 and 3 share: norms after branches alone, and of all queries and keys at once."""
    common.silu(fields)
    bias = fields.flag("attention_bias", False)
    return {
        **common.shape(fields, norm_eps=1e-5),
        "qkv_bias": bias,
        "out_bias": bias,
        "qk_norm": "whole",
        "pre_norms": False,
        "post_norms": True,
    }


def config(fields: Fields) -> TransformerConfig:
    """OLMo 2 (OLMo et al. 2024)."""
    theta, scaling = rope_fields(fields, 10000.0)
    return TransformerConfig(**shared(fields), rope_theta=theta, rope=scaling)


def describe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of an OLMo 2."""
    return {
        **common.described(config, "olmo2", "Olmo2ForCausalLM"),
        "attention_bias": config.qkv_bias,
    }


FAMILY = names.Family(
    config=config,
    describe=describe,
    sources=names.sources,
)
