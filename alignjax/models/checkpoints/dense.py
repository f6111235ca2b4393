"""Families without experts: Llama 2 and 3, SmolLM 2 and 3, Mistral, Qwen 2.5 and 3, Gemma 2 and 3.

For each: what its `config.json` means. The tensors behind the parameters are in `names.py`.
"""

from collections.abc import Callable
from typing import Any

from alignjax.models.checkpoints.hf_config import Fields, kinds, period, rope_fields, scaling_of
from alignjax.models.config import TransformerConfig


def common(
    fields: Fields,
    *,
    head_dim: int | None = None,
    tied: bool = False,
    norm_eps: float = 1e-6,
    ff: str = "intermediate_size",
) -> dict[str, Any]:
    """Fields that all families share; defaults of some, and the name of the dense MLP's width."""
    width = int(fields.number("hidden_size"))
    heads = int(fields.number("num_attention_heads", most=1e5))
    fields.only("attention_dropout", 0, 0.0)
    fields.only("pretraining_tp", 1)
    fields.only("rope_interleaved", False)
    return {
        "vocab_size": int(fields.number("vocab_size", most=1e8)),
        "layers": int(fields.number("num_hidden_layers", most=1e4)),
        "width": width,
        "heads": heads,
        "kv_heads": int(fields.number("num_key_value_heads", heads, most=1e5)),
        "head_dim": int(fields.number("head_dim", head_dim or width // heads)),
        "ff": int(fields.number(ff)),
        "norm_eps": float(fields.number("rms_norm_eps", norm_eps)),
        "tied": bool(fields.take("tie_word_embeddings", tied)),
    }


def silu(fields: Fields) -> None:
    """Refuses every activation but silu."""
    fields.only("hidden_act", "silu")


def windowed(fields: Fields, default: list[str], layer_count: int) -> dict[str, Any]:
    """Attention kinds, and the window where a layer slides."""
    found = kinds(fields, default, layer_count)
    window = fields.take("sliding_window", None)
    if "sliding" in found and window is None:
        raise fields.error("sliding_window", "be given for sliding layers", "nothing")
    return {"attention": found, "window": int(window) if "sliding" in found else 0}


def llama(fields: Fields) -> TransformerConfig:
    """Llama 2 and 3, SmolLM2 (Touvron et al. 2023; Dubey et al. 2024)."""
    silu(fields)
    bias = bool(fields.take("attention_bias", False))
    theta, scaling = rope_fields(fields, 10000.0)
    return TransformerConfig(
        **common(fields),
        rope_theta=theta,
        rope=scaling,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bool(fields.take("mlp_bias", False)),
    )


def smollm3(fields: Fields) -> TransformerConfig:
    """SmolLM3: Llama with layers that have no positions."""
    silu(fields)
    bias = bool(fields.take("attention_bias", False))
    theta, scaling = rope_fields(fields, 2000000.0)
    shape = common(fields, tied=True)
    count = shape["layers"]
    every = int(fields.number("no_rope_layer_interval", 4))
    turns = fields.take("no_rope_layers", None) or [int((n + 1) % every != 0) for n in range(count)]
    fields.only("use_sliding_window", False)
    fields.take("sliding_window", None)
    if kinds(fields, ["full"] * count, count) != ("full",) or len(turns) != count:
        raise fields.error("layer_types", "be full_attention, with one no_rope entry a layer", "")
    return TransformerConfig(
        **shape,
        rope_theta=theta,
        rope=scaling,
        attention=period(["full" if turn else "nope" for turn in turns]),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bool(fields.take("mlp_bias", False)),
    )


def mistral(fields: Fields) -> TransformerConfig:
    """Mistral 7B (Jiang et al. 2023): a sliding window on all layers, or on none."""
    silu(fields)
    theta, scaling = rope_fields(fields, 10000.0)
    shape = common(fields)
    kind = "sliding" if fields.has("sliding_window") else "full"
    seen = windowed(fields, [kind] * shape["layers"], shape["layers"])
    return TransformerConfig(**shape, **seen, rope_theta=theta, rope=scaling)


def _qwen(fields: Fields, **more: Any) -> TransformerConfig:
    silu(fields)
    theta, scaling = rope_fields(fields, 10000.0)
    shape = common(fields, head_dim=more.pop("head_dim", None))
    slides, first = fields.take("use_sliding_window", False), fields.take("max_window_layers", 28)
    default = ["sliding" if slides and n >= first else "full" for n in range(shape["layers"])]
    seen = windowed(fields, default, shape["layers"])
    return TransformerConfig(**shape, **seen, **more, rope_theta=theta, rope=scaling)


def qwen2(fields: Fields) -> TransformerConfig:
    """Qwen 2 and 2.5 (Yang et al. 2024): biases on queries, keys and values."""
    return _qwen(fields, qkv_bias=True)


def qwen3(fields: Fields) -> TransformerConfig:
    """Qwen 3 (Yang et al. 2025): norms of queries and keys."""
    bias = bool(fields.take("attention_bias", False))
    return _qwen(fields, qk_norm="scaled", qkv_bias=bias, out_bias=bias, head_dim=128)


def _gemma(fields: Fields, default: list[str], shape: dict[str, Any]) -> dict[str, Any]:
    """What Gemma 2 and 3 share: 1 + scale, norms after branches, scaled embedding, tanh GELU."""
    fields.only("hidden_activation", "gelu_pytorch_tanh")
    fields.only("hidden_act", "gelu_pytorch_tanh")
    fields.only("use_bidirectional_attention", False)
    bias = bool(fields.take("attention_bias", False))
    return {
        **shape,
        **windowed(fields, default, shape["layers"]),
        "activation": "gelu",
        "norm_plus_one": True,
        "post_norms": True,
        "embed_scale": shape["width"] ** 0.5,
        "query_scale": float(fields.number("query_pre_attn_scalar", 256)) ** -0.5,
        "qkv_bias": bias,
        "out_bias": bias,
    }


def gemma2(fields: Fields) -> TransformerConfig:
    """Gemma 2 (Gemma Team 2024): windows on every other layer, soft caps."""
    shape = common(fields, head_dim=256, tied=True)
    default = ["sliding" if n % 2 == 0 else "full" for n in range(shape["layers"])]
    theta, scaling = rope_fields(fields, 10000.0)
    return TransformerConfig(
        **_gemma(fields, default, shape),
        rope_theta=theta,
        rope=scaling,
        attention_softcap=float(fields.take("attn_logit_softcapping", 0.0)),
        logit_softcap=float(fields.take("final_logit_softcapping", 0.0)),
    )


def gemma3(fields: Fields) -> TransformerConfig:
    """Gemma 3, text (Gemma Team 2025): five windows to one full layer, norms of queries and keys.

    Sliding layers turn with a base of their own and are never scaled.
    """
    shape = common(fields, head_dim=256, tied=True)
    every = int(fields.number("sliding_window_pattern", 6))
    default = ["full" if (n + 1) % every == 0 else "sliding" for n in range(shape["layers"])]
    per_kind = fields.take("rope_parameters", None)
    if per_kind and "full_attention" in per_kind:
        where = f"{fields.where}, rope_parameters"
        local, _ = scaling_of(Fields(per_kind.get("sliding_attention", {}), where), 10000.0)
        theta, scaling = scaling_of(Fields(per_kind["full_attention"], where), 1000000.0)
        for old in ("rope_theta", "rope_local_base_freq", "rope_scaling"):
            fields.take(old, None)
    else:
        local = float(fields.take("rope_local_base_freq", 10000.0))
        theta, scaling = rope_fields(fields, 1000000.0)
    return TransformerConfig(
        **_gemma(fields, default, shape),
        rope_theta=theta,
        rope=scaling,
        local_rope_theta=local,
        qk_norm="scaled",
        attention_softcap=float(fields.take("attn_logit_softcapping", 0.0)),
        logit_softcap=float(fields.take("final_logit_softcapping", 0.0)),
    )


FAMILIES: dict[str, Callable[[Fields], TransformerConfig]] = {
    "llama": llama,
    "smollm3": smollm3,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gemma2": gemma2,
    "gemma3_text": gemma3,
}
