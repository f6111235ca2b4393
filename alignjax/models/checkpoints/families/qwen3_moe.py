"""Qwen 3 MoE."""

from typing import Any

from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.families import common, experts
from alignjax.models.checkpoints.hf_config import Fields, rope_fields
from alignjax.models.config import MoeConfig, TransformerConfig


def config(fields: Fields) -> TransformerConfig:
    """Qwen 3 MoE (Yang et al. 2025): softmax over all experts, norms of queries and keys."""
    common.silu(fields)
    experts.training_only(fields)
    theta, scaling = rope_fields(fields, 10000.0)
    bias = fields.flag("attention_bias", False)
    shape = common.shape(fields, kv_heads=4)
    # A window counts only where it is used, and null is none.
    slides, window = (
        fields.flag("use_sliding_window", False),
        fields.nullable("sliding_window", 4096),
    )
    slides = slides and window is not None
    routed = MoeConfig(
        experts=experts.count(fields, 128),
        active=experts.active(fields, 8),
        ff=fields.size("moe_intermediate_size", 768),
        normalise=fields.flag("norm_topk_prob", False),
        every=fields.size("decoder_sparse_step", 1, most=1e5),
        dense=tuple(experts.numbers(fields, "mlp_only_layers", shape["layers"]) or ()),
    )
    own = Fields({"sliding_window": window}, fields.where)
    return TransformerConfig(
        **shape,
        attention=("sliding",) if slides else ("full",),
        window=own.size("sliding_window") if slides else 0,
        rope_theta=theta,
        rope=scaling,
        qkv_bias=bias,
        out_bias=bias,
        qk_norm="scaled",
        moe=routed,
    )


def describe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Qwen 3 MoE."""
    return {
        **experts.described(config, "qwen3_moe", "Qwen3MoeForCausalLM"),
        "head_dim": config.head_dim,
        "attention_bias": config.qkv_bias,
        "use_sliding_window": config.window > 0,
        "sliding_window": config.window or None,
        "num_experts": config.moe.experts,
        "moe_intermediate_size": config.moe.ff,
        "norm_topk_prob": config.moe.normalise,
        "decoder_sparse_step": config.moe.every,
        "mlp_only_layers": list(config.moe.dense),
    }


FAMILY = names.Family(
    config=config,
    describe=describe,
    sources=lambda config: names.sources(config, experts.numbered),
)
