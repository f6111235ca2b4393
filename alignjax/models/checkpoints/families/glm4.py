"""GLM-4 (0414), dense."""

from typing import Any

from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.families import common
from alignjax.models.checkpoints.hf_config import Fields
from alignjax.models.config import TransformerConfig

NORMS = ("post_self_attn", "post_attention", "post_mlp")


def config(fields: Fields) -> TransformerConfig:
    """GLM-4 (GLM Team 2024): neighbours of half a head turn, norms before and after branches."""
    common.silu(fields)
    shape = common.shape(fields, head_dim=128, kv_heads=2, norm_eps=0.00000015625)
    turned, _ = common.partial_rope(fields, 0.5, shape["head_dim"])
    return TransformerConfig(
        **shape,
        **turned,
        rope_interleaved=True,
        qkv_bias=fields.flag("attention_bias", True),
        post_norms=True,
    )


def describe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a GLM-4."""
    return {
        **common.described(config, "glm4", "Glm4ForCausalLM"),
        **common.described_part(config),
        "attention_bias": config.qkv_bias,
    }


FAMILY = names.Family(
    config=config,
    describe=describe,
    sources=lambda config: names.sources(
        config, dense=lambda config, source: common.fused(source), norms=NORMS
    ),
    fused=("gate", "up"),
)
