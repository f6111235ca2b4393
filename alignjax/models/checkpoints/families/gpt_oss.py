"""GPT-OSS."""

from typing import Any

from alignjax.models import moe
from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.families import common, experts
from alignjax.models.checkpoints.hf_config import Fields, rope_fields
from alignjax.models.checkpoints.names import Layer
from alignjax.models.config import MoeConfig, TransformerConfig

# The positions of a file that says nothing of them.
ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def config(fields: Fields) -> TransformerConfig:
    """GPT-OSS (OpenAI 2025): a sink in every head, a window on every other layer, experts with
    biases whose gate and way in are clamped."""
    common.silu(fields)
    experts.training_only(fields)
    told = fields.has("rope_parameters") or fields.has("rope_scaling")
    own = {"rope_theta": fields.take("rope_theta", None), "rope_scaling": ROPE} if not told else {}
    theta, scaling = rope_fields(fields if told else Fields(own, fields.where), 150000.0)
    fields.only("initial_context_length", scaling.original_length)
    shape = common.shape(fields, head_dim=64, kv_heads=8, norm_eps=1e-5)
    default = ["full" if n % 2 else "sliding" for n in range(shape["layers"])]
    bias, active = fields.flag("attention_bias", True), experts.active(fields, 4)
    fields.only("experts_per_token", active)
    routed = MoeConfig(
        experts=experts.count(fields, 128),
        active=active,
        ff=shape["ff"],
        bias=True,
        clamp=float(fields.number("swiglu_limit", 7.0)),
        clamp_gain=float(fields.number("swiglu_alpha", 1.702)),
    )
    return TransformerConfig(
        **shape,
        **common.windowed(fields, default, shape["layers"], window=128),
        rope_theta=theta,
        rope=scaling,
        qkv_bias=bias,
        out_bias=bias,
        sinks=True,
        moe=routed,
    )


def describe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a GPT-OSS."""
    return {
        **experts.described(config, "gpt_oss", "GptOssForCausalLM"),
        **common.layer_types(config),
        "head_dim": config.head_dim,
        "attention_bias": config.qkv_bias,
        "sliding_window": config.window or 128,
        "num_local_experts": config.moe.experts,
        "swiglu_limit": config.moe.clamp,
        "swiglu_alpha": config.moe.clamp_gain,
    }


def mixture(config: TransformerConfig, source: Layer) -> moe.Moe:
    """GPT-OSS's experts: all in one tensor, columns of gate and up in turn."""
    both, halves = "mlp.experts.gate_up_proj", {"two": 2}
    gate, up = ({"sizes": halves, "take": {"two": at}} for at in (0, 1))
    matrix, row = "e d (f two) -> e d f", "e (f two) -> e f"
    return moe.Moe(
        router=source("mlp.router.weight", "e d -> d e"),
        gate=source(both, matrix, **gate),
        up=source(both, matrix, **up),
        down=source("mlp.experts.down_proj"),
        router_bias=source("mlp.router.bias"),
        gate_bias=source(f"{both}_bias", row, **gate),
        up_bias=source(f"{both}_bias", row, **up),
        down_bias=source("mlp.experts.down_proj_bias"),
    )


FAMILY = names.Family(
    config=config,
    describe=describe,
    sources=lambda config: names.sources(config, mixture),
)
