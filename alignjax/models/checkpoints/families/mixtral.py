"""Mixtral."""

from typing import Any

from alignjax.models import moe
from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.families import common, experts
from alignjax.models.checkpoints.hf_config import Fields, rope_fields
from alignjax.models.checkpoints.names import Layer
from alignjax.models.config import MoeConfig, TransformerConfig


def config(fields: Fields) -> TransformerConfig:
    """Mixtral (Jiang et al. 2024): experts in every layer, softmax over the chosen."""
    common.silu(fields)
    experts.training_only(fields)
    theta, scaling = rope_fields(fields, 1000000.0)
    shape = common.shape(fields, kv_heads=8, norm_eps=1e-5)
    kind = "sliding" if fields.has("sliding_window") else "full"
    active = experts.active(fields, 2)
    return TransformerConfig(
        **shape,
        **common.windowed(fields, [kind] * shape["layers"], shape["layers"]),
        rope_theta=theta,
        rope=scaling,
        moe=MoeConfig(experts=experts.count(fields, 8), active=active, ff=shape["ff"]),
    )


def describe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Mixtral."""
    return {
        **experts.described(config, "mixtral", "MixtralForCausalLM"),
        "head_dim": config.head_dim,
        "num_local_experts": config.moe.experts,
        "sliding_window": config.window or None,
    }


def mixture(config: TransformerConfig, source: Layer) -> moe.Moe:
    """Mixtral's experts: w1 is the gate, w3 the other way in."""
    return experts.mixture(config, source, inside="block_sparse_moe", parts=("w1", "w3", "w2"))


FAMILY = names.Family(
    config=config,
    describe=describe,
    sources=lambda config: names.sources(config, mixture),
)
