"""Qwen 3 Next, and what the later families of its kind share with it."""

import dataclasses
from typing import Any

from alignjax.core import struct
from alignjax.models import gated_delta, moe
from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.families import common, experts, opened
from alignjax.models.checkpoints.hf_config import Fields, kinds
from alignjax.models.checkpoints.names import Layer
from alignjax.models.config import DeltaConfig, MoeConfig, TransformerConfig

MIXERS = {"linear_attention": "delta", "full_attention": "full"}
SHARE = 0.25  # of a head's dimensions that turn
# Positions of images; those of text are one number three times over, whatever these say.
SEEN = ("mrope_section", "mrope_interleaved")


def config(fields: Fields) -> TransformerConfig:
    """Qwen 3 Next (Qwen 2025): layers of the gated delta rule, and among them full ones whose mix
    is gated; experts beside a shared one with a gate of its own."""
    experts.training_only(fields)
    own = mixers(fields, kv_heads=2)
    routed = MoeConfig(
        experts=experts.count(fields, 512),
        active=experts.active(fields, 10),
        ff=fields.size("moe_intermediate_size", 512),
        normalise=fields.flag("norm_topk_prob", True),
        every=fields.size("decoder_sparse_step", 1, most=1e5),
        dense=tuple(experts.numbers(fields, "mlp_only_layers", own["layers"]) or ()),
        **shared(fields),
    )
    return TransformerConfig(**own, moe=routed)


def shared(fields: Fields) -> dict[str, Any]:
    """Of the expert that every token uses."""
    return {"shared_ff": fields.size("shared_expert_intermediate_size", 512), "shared_gate": True}


def mixers(
    fields: Fields, *, kv_heads: int, ff: str = "intermediate_size", seen: bool = False
) -> dict[str, Any]:
    """All but the experts. kv_heads: of an absent field. seen: whether positions of images may be
    told of."""
    common.silu(fields)
    own = common.shape(fields, head_dim=256, kv_heads=kv_heads, ff=ff)
    bias = fields.flag("attention_bias", False)
    every = fields.size("full_attention_interval", 4, most=1e5)
    default = ["delta" if (n + 1) % every else "full" for n in range(own["layers"])]
    unread = SEEN if seen else ()
    rope, _ = common.partial_rope(fields, SHARE, own["head_dim"], unread=unread)
    delta = DeltaConfig(
        key_heads=fields.size("linear_num_key_heads", 16, most=1e5),
        value_heads=fields.size("linear_num_value_heads", 32, most=1e5),
        key_dim=fields.size("linear_key_head_dim", 128, most=1e5),
        value_dim=fields.size("linear_value_head_dim", 128, most=1e5),
        taps=fields.size("linear_conv_kernel_dim", 4, most=1e5),
    )
    return {
        **own,
        "attention": kinds(fields, default, own["layers"], MIXERS),
        "attention_gate": True,
        **rope,
        "qkv_bias": bias,
        "out_bias": bias,
        "qk_norm": "scaled",
        "norm_plus_one": True,
        "delta": delta,
    }


def described(config: TransformerConfig, kind: str, architecture: str) -> dict[str, Any]:
    """Fields that these families write alike."""
    fields, delta = common.described(config, kind, architecture), config.delta
    words = {ours: theirs for theirs, ours in MIXERS.items()}
    return fields | {
        **common.described_part(config),
        "attention_bias": config.qkv_bias,
        "layer_types": [words.get(kind, "full_attention") for kind in config.kinds()],
        "linear_num_key_heads": delta.key_heads,
        "linear_num_value_heads": delta.value_heads,
        "linear_key_head_dim": delta.key_dim,
        "linear_value_head_dim": delta.value_dim,
        "linear_conv_kernel_dim": delta.taps,
    }


def described_experts(config: TransformerConfig) -> dict[str, Any]:
    """Fields of experts that these families write alike."""
    routed = config.moe
    return {
        "num_experts": routed.experts,
        "num_experts_per_tok": routed.active,
        "moe_intermediate_size": routed.ff,
        "shared_expert_intermediate_size": routed.shared_ff,
    }


def describe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Qwen 3 Next."""
    return {
        **described(config, "qwen3_next", "Qwen3NextForCausalLM"),
        **described_experts(config),
        "norm_topk_prob": config.moe.normalise,
        "decoder_sparse_step": config.moe.every,
        "mlp_only_layers": list(config.moe.dense),
    }


def mixture(config: TransformerConfig, source: Layer) -> moe.Moe:
    """Experts stored one by one, the shared one, and its gate, a matrix of one row."""
    routed = dataclasses.replace(config, moe=dataclasses.replace(config.moe, shared_ff=0))
    own = experts.numbered(routed, source)
    one = {"sizes": {"one": 1}, "take": {"one": 0}}
    return struct.replace(
        own,
        shared=experts.mlp(source, "mlp.shared_expert"),
        shared_gate=source("mlp.shared_expert_gate.weight", "one d -> d", **one),
    )


def _delta(config: TransformerConfig, source: Layer) -> gated_delta.Delta:
    """Sources of the gated delta rule: rows of a key head's queries, keys, values and gates stand
    together, and so do its writes and decays."""
    h, v, g = config.delta.key_dim, config.delta.values, config.delta.group

    def part(name: str, whole: int, start: int, size: int) -> Any:
        at = {"sizes": {"x": whole}, "take": {"x": (start, start + size)}}
        return source(f"linear_attn.in_proj_{name}.weight", "(k x) d -> d k x", **at)

    return mixer(
        config,
        source,
        {
            "query": part("qkvz", 2 * (h + v), 0, h),
            "key": part("qkvz", 2 * (h + v), h, h),
            "value": part("qkvz", 2 * (h + v), 2 * h, v),
            "out_gate": part("qkvz", 2 * (h + v), 2 * h + v, v),
            "write": part("ba", 2 * g, 0, g),
            "decay": part("ba", 2 * g, g, g),
        },
    )


def rows_of(config: TransformerConfig) -> dict[str, tuple[int, int, int]]:
    """Rows of all queries, keys and values that stand one behind the other in a tensor."""
    delta = config.delta
    keys, values = delta.key_heads * delta.key_dim, delta.key_heads * delta.values
    both, count = 2 * keys, 2 * keys + values
    return {"query": (0, keys, count), "key": (keys, both, count), "value": (both, count, count)}


def mixer(config: TransformerConfig, source: Layer, maps: dict[str, Any]) -> gated_delta.Delta:
    """Sources of the gated delta rule beside those of its maps, which families store apart."""
    inside, rows = "linear_attn", rows_of(config)
    one = {"sizes": {"one": 1}, "take": {"one": 0}}
    taps = {
        f"{name}_taps": source(f"{inside}.conv1d.weight", "(k h) one w -> k h w", rows=at, **one)
        for name, at in rows.items()
    }
    return gated_delta.Delta(
        **maps,
        **taps,
        out=source(f"{inside}.out_proj.weight", "d (k v) -> k v d"),
        decay_bias=source(f"{inside}.dt_bias", "(k g) -> k g"),
        decay_rate=source(f"{inside}.A_log", "(k g) -> k g"),
        norm=source(f"{inside}.norm.weight"),
    )


FAMILY = names.Family(
    config=config,
    describe=describe,
    sources=lambda config: names.sources(config, mixture, mixer=_delta),
    opened=opened.further,
)
