"""GLM-4.5 and 4.6, with experts."""

from typing import Any

from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.families import common, experts
from alignjax.models.checkpoints.hf_config import Fields
from alignjax.models.config import MoeConfig, TransformerConfig


def config(fields: Fields) -> TransformerConfig:
    """GLM-4.5 (GLM Team 2025): half a head turns, sigmoid scores with a correction, a shared
    expert. Its extra layers that predict more than one token are not read."""
    common.silu(fields)
    experts.training_only(fields)
    for name in ("num_nextn_predict_layers", "num_mtp_layers"):
        fields.take(name, None)
    shape = common.shape(fields, kv_heads=8, norm_eps=1e-5)
    turned, _ = common.partial_rope(fields, 0.5, shape["head_dim"])
    width, count = fields.size("moe_intermediate_size", 1408), experts.routed(fields, 128)
    routed = MoeConfig(
        experts=count,
        active=experts.active(fields, 8),
        ff=width,
        shared_ff=width * fields.size("n_shared_experts", 1, most=1e5),
        scores="sigmoid",
        normalise=fields.flag("norm_topk_prob", True),
        scale=float(fields.number("routed_scaling_factor", 1.0)),
        bias_correction=True,
        groups=fields.size("n_group", 1, most=1e5),
        active_groups=fields.size("topk_group", 1, most=1e5),
        first=experts.first(fields, 1),
    )
    return TransformerConfig(
        **shape,
        **turned,
        qkv_bias=fields.flag("attention_bias", False),
        qk_norm="scaled" if fields.flag("use_qk_norm", False) else "none",
        moe=routed,
    )


def describe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a GLM-4.5."""
    return {
        **experts.described(config, "glm4_moe", "Glm4MoeForCausalLM"),
        **common.described_part(config),
        "head_dim": config.head_dim,
        "attention_bias": config.qkv_bias,
        "use_qk_norm": config.qk_norm == "scaled",
        **experts.described_groups(config),
    }


FAMILY = names.Family(
    config=config,
    describe=describe,
    sources=lambda config: names.sources(config, experts.numbered),
    # Layers behind the last one predict further tokens.
    unread=lambda config: (f"model.layers.{config.layers}.*",),
)
