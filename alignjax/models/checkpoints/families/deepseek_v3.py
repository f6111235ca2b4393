"""DeepSeek V3 and R1."""

from typing import Any

from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.families import common, experts
from alignjax.models.checkpoints.hf_config import Fields, rope_fields
from alignjax.models.config import MlaConfig, MoeConfig, TransformerConfig


def config(fields: Fields) -> TransformerConfig:
    """DeepSeek V3 (DeepSeek-AI 2024): latent attention, sigmoid scores, groups, shared experts.

    Its extra layers that predict more than one token (`num_nextn_predict_layers`) are not read.
    """
    common.silu(fields)
    experts.training_only(fields)
    for name in ("aux_loss_alpha", "seq_aux", "ep_size", "num_nextn_predict_layers"):
        fields.take(name, None)
    fields.only("scoring_func", "sigmoid")
    fields.only("topk_method", "noaux_tc")
    fields.only("moe_layer_freq", 1)
    theta, scaling = rope_fields(fields, 10000.0)
    size = fields.size("qk_nope_head_dim", 128, most=1e5)
    # `head_dim` of the file, where it is there, is the rotated part again.
    shape = {**common.shape(fields, head_dim=size), "head_dim": size}
    low = fields.nullable("q_lora_rank", 1536)  # null projects queries directly
    latent = MlaConfig(
        kv_rank=fields.size("kv_lora_rank", 512),
        query_rank=0
        if low is None
        else Fields({"q_lora_rank": low}, fields.where).size("q_lora_rank"),
        rope_dim=fields.size("qk_rope_head_dim", 64, most=1e5),
        value_dim=fields.size("v_head_dim", 128, most=1e5),
    )
    fields.only("qk_head_dim", size + latent.rope_dim)
    width, count = fields.size("moe_intermediate_size", 2048), experts.routed(fields, 256)
    first = experts.first(fields, 3)
    routed = MoeConfig(
        experts=count,
        active=experts.active(fields, 8),
        ff=width,
        shared_ff=width * fields.size("n_shared_experts", 1, most=1e5),
        scores="sigmoid",
        normalise=fields.flag("norm_topk_prob", True),
        scale=float(fields.number("routed_scaling_factor", 2.5)),
        bias_correction=True,
        groups=fields.size("n_group", 8, most=1e5),
        active_groups=fields.size("topk_group", 4, most=1e5),
        first=first,
    )
    return TransformerConfig(
        **shape,
        rope_theta=theta,
        rope=scaling,
        rope_interleaved=fields.flag("rope_interleave", True),
        out_bias=fields.flag("attention_bias", False),
        moe=routed,
        mla=latent,
    )


def describe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a DeepSeek V3 without layers for further tokens."""
    latent = config.mla
    return {
        **experts.described(config, "deepseek_v3", "DeepseekV3ForCausalLM"),
        "attention_bias": config.out_bias,
        "rope_interleave": config.rope_interleaved,
        "kv_lora_rank": latent.kv_rank,
        "q_lora_rank": latent.query_rank or None,
        "qk_nope_head_dim": config.head_dim,
        "qk_rope_head_dim": latent.rope_dim,
        "v_head_dim": latent.value_dim,
        **experts.described_groups(config),
    }


FAMILY = names.Family(
    config=config,
    describe=describe,
    sources=lambda config: names.sources(config, experts.numbered, attend=names.latent_attention),
    # Layers behind the last one predict further tokens.
    unread=lambda config: (f"model.layers.{config.layers}.*",),
)
