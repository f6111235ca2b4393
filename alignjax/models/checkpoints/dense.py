"""Families without experts: Llama 2 and 3, SmolLM 2 and 3, Mistral, Qwen 2.5 and 3, Gemma 2 and 3.

For each: what its `config.json` means, and a `config.json` for a configuration. Defaults of absent
fields are those of transformers. The tensors behind the parameters are in `names.py`.
"""

from collections.abc import Callable
from typing import Any

from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.hf_config import (
    Fields,
    kinds,
    period,
    rope_fields,
    spelled_twice,
    table,
)
from alignjax.models.config import TransformerConfig


def common(
    fields: Fields,
    *,
    head_dim: int | None = None,
    kv_heads: int | None = None,
    tied: bool = False,
    norm_eps: float = 1e-6,
    ff: str = "intermediate_size",
) -> dict[str, Any]:
    """Fields that all families share; defaults of some, and the name of the dense MLP's width."""
    width, heads = fields.size("hidden_size"), fields.size("num_attention_heads", most=1e5)
    shared = fields.nullable("num_key_value_heads", kv_heads)
    if shared is not None:
        shared = Fields({"num_key_value_heads": shared}, fields.where).size("num_key_value_heads")
    if not fields.has("head_dim") and head_dim is None and width % heads:
        raise fields.error("hidden_size", f"be a multiple of the {heads} heads", repr(width))
    fields.only("attention_dropout", 0, 0.0)
    fields.only("rope_interleaved", False)
    return {
        "vocab_size": fields.size("vocab_size", most=1e8),
        "layers": fields.size("num_hidden_layers", most=1e4),
        "width": width,
        "heads": heads,
        "kv_heads": heads if shared is None else shared,
        "head_dim": fields.size("head_dim", head_dim or width // heads),
        "ff": fields.size(ff),
        "norm_eps": float(fields.number("rms_norm_eps", norm_eps)),
        "tied": fields.flag("tie_word_embeddings", tied),
    }


def silu(fields: Fields) -> None:
    """Refuses every activation but silu."""
    fields.only("hidden_act", "silu")


def windowed(
    fields: Fields, default: list[str], layer_count: int, *, window: int | None = None
) -> dict[str, Any]:
    """Attention kinds, and the window where a layer slides; `window` is the one of an absent field.

    Raises:
      ValueError: a layer slides and there is no window, or the window is no size.
    """
    pattern = kinds(fields, default, layer_count)
    size = fields.nullable("sliding_window", window)
    if "sliding" not in pattern:
        return {"attention": pattern, "window": 0}
    return {
        "attention": pattern,
        "window": Fields({"sliding_window": size}, fields.where).size("sliding_window"),
    }


def llama(fields: Fields) -> TransformerConfig:
    """Llama 2 and 3, SmolLM2 (Touvron et al. 2023; Dubey et al. 2024)."""
    silu(fields)
    bias = fields.flag("attention_bias", False)
    theta, scaling = rope_fields(fields, 10000.0)
    return TransformerConfig(
        **common(fields),
        rope_theta=theta,
        rope=scaling,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
    )


def smollm3(fields: Fields) -> TransformerConfig:
    """SmolLM3: Llama with layers that have no positions."""
    silu(fields)
    bias = fields.flag("attention_bias", False)
    theta, scaling = rope_fields(fields, 2000000.0)
    shape = common(fields, tied=True, kv_heads=4)
    count = shape["layers"]
    every = fields.size("no_rope_layer_interval", 4)
    turns = fields.take("no_rope_layers", None)
    turns = [int((n + 1) % every != 0) for n in range(count)] if turns is None else turns
    if not isinstance(turns, list) or len(turns) != count or set(map(str, turns)) - {"0", "1"}:
        raise fields.error("no_rope_layers", f"say 0 or 1 of all {count} layers", repr(turns))
    fields.only("use_sliding_window", False)
    fields.take("sliding_window", None)
    if kinds(fields, ["full"] * count, count) != ("full",):
        raise fields.error("layer_types", "be full_attention in all layers", "others")
    return TransformerConfig(
        **shape,
        rope_theta=theta,
        rope=scaling,
        attention=period(["full" if turn else "nope" for turn in turns]),
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=fields.flag("mlp_bias", False),
    )


def mistral(fields: Fields) -> TransformerConfig:
    """Mistral 7B (Jiang et al. 2023): a sliding window on all layers, or, with null, on none."""
    silu(fields)
    theta, scaling = rope_fields(fields, 10000.0)
    shape = common(fields, kv_heads=8)
    window = fields.nullable("sliding_window", 4096)
    own = Fields({"sliding_window": window}, fields.where)
    seen = windowed(own, ["full" if window is None else "sliding"], 1)
    if kinds(fields, list(seen["attention"]), shape["layers"]) != seen["attention"]:
        raise fields.error("layer_types", f"all be of one kind, {seen['attention'][0]}", "others")
    return TransformerConfig(**shape, **seen, rope_theta=theta, rope=scaling)


def _qwen(fields: Fields, **more: Any) -> TransformerConfig:
    silu(fields)
    theta, scaling = rope_fields(fields, 10000.0)
    shape = common(fields, head_dim=more.pop("head_dim", None), kv_heads=32)
    slides, first = fields.flag("use_sliding_window", False), fields.take("max_window_layers", 28)
    if slides and (isinstance(first, bool) or not isinstance(first, int)):
        raise fields.error("max_window_layers", "be a whole number", repr(first))
    default = ["sliding" if slides and n >= first else "full" for n in range(shape["layers"])]
    seen = windowed(fields, default, shape["layers"], window=4096)
    if "sliding" in seen["attention"] and not slides:
        raise fields.error("use_sliding_window", "be true where layer_types slide", "false")
    return TransformerConfig(**shape, **seen, **more, rope_theta=theta, rope=scaling)


def qwen2(fields: Fields) -> TransformerConfig:
    """Qwen 2 and 2.5 (Yang et al. 2024): biases on queries, keys and values."""
    return _qwen(fields, qkv_bias=True)


def qwen3(fields: Fields) -> TransformerConfig:
    """Qwen 3 (Yang et al. 2025): norms of queries and keys."""
    bias = fields.flag("attention_bias", False)
    return _qwen(fields, qk_norm="scaled", qkv_bias=bias, out_bias=bias, head_dim=128)


def _cap(fields: Fields, name: str, absent: float | None) -> float:
    """A soft cap; null is none."""
    value = fields.nullable(name, absent)
    return 0.0 if value is None else float(Fields({name: value}, fields.where).number(name))


def _gemma(fields: Fields, default: list[str], shape: dict[str, Any]) -> dict[str, Any]:
    """What Gemma 2 and 3 share: 1 + scale, norms after branches, scaled embedding, tanh GELU."""
    fields.only("hidden_activation", "gelu_pytorch_tanh")
    fields.only("hidden_act", "gelu_pytorch_tanh")
    fields.only("use_bidirectional_attention", False)
    bias = fields.flag("attention_bias", False)
    return {
        **shape,
        **windowed(fields, default, shape["layers"], window=4096),
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
    shape = common(fields, head_dim=256, kv_heads=4, tied=True)
    default = ["sliding" if n % 2 == 0 else "full" for n in range(shape["layers"])]
    theta, scaling = rope_fields(fields, 10000.0)
    return TransformerConfig(
        **_gemma(fields, default, shape),
        rope_theta=theta,
        rope=scaling,
        attention_softcap=_cap(fields, "attn_logit_softcapping", 50.0),
        logit_softcap=_cap(fields, "final_logit_softcapping", 30.0),
    )


def gemma3(fields: Fields) -> TransformerConfig:
    """Gemma 3, text (Gemma Team 2025): five windows to one full layer, norms of queries and keys.

    Sliding layers turn with a base of their own and are never scaled. transformers has fields for
    a soft cap of the scores and for YaRN's `truncate` and does not apply them: such a model is
    refused.
    """
    fields.only("attn_logit_softcapping", 0, 0.0)
    shape = common(fields, head_dim=256, kv_heads=4, tied=True)
    every = fields.size("sliding_window_pattern", 6)
    fields.take("_sliding_window_pattern", None)  # transformers writes it and reads the other
    default = ["full" if (n + 1) % every == 0 else "sliding" for n in range(shape["layers"])]
    local, theta, scaling = _gemma3_rope(fields)
    if not scaling.truncate:
        raise fields.error("rope_parameters.truncate", "be true for Gemma 3", "false")
    return TransformerConfig(
        **_gemma(fields, default, shape),
        rope_theta=theta,
        rope=scaling,
        local_rope_theta=local,
        qk_norm="scaled",
        logit_softcap=_cap(fields, "final_logit_softcapping", None),
    )


def _gemma3_rope(fields: Fields) -> tuple[float, float, Any]:
    """(base of sliding layers, base of full layers, scaling of full layers)."""
    where = f"{fields.where}, rope_parameters"
    by_kind = Fields(table(fields, "rope_parameters"), where)
    new = {kind: table(by_kind, kind) for kind in ("full_attention", "sliding_attention")}
    by_kind.done()
    older = Fields(
        {
            "rope_parameters": new["full_attention"],
            "rope_scaling": fields.take("rope_scaling", None),
            "rope_theta": fields.take("rope_theta", None),
        },
        fields.where,
    )
    theta, scaling = rope_fields(older, 1000000.0)
    base = {"rope_theta": fields.take("rope_local_base_freq", None)}
    local, stretched = rope_fields(
        Fields({"rope_parameters": new["sliding_attention"], **base}, fields.where), 10000.0
    )
    if stretched.kind != "none":
        raise fields.error("rope_type", "be default for sliding layers", stretched.kind)
    return local, theta, scaling


def _described(config: TransformerConfig, kind: str, architecture: str) -> dict[str, Any]:
    """Fields that all families write alike."""
    length = int(config.rope.original_length * config.rope.factor)
    return {
        "architectures": [architecture],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.ff,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        "dtype": config.param_dtype,
        **spelled_twice(config.rope_theta, config.rope),
        **({"max_position_embeddings": length} if length else {}),
    }


def _layer_types(config: TransformerConfig) -> dict[str, Any]:
    sliding = {"sliding": "sliding_attention"}
    return {"layer_types": [sliding.get(kind, "full_attention") for kind in config.kinds()]}


def describe_llama(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Llama."""
    return {
        **_described(config, "llama", "LlamaForCausalLM"),
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
    }


def describe_smollm3(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a SmolLM3."""
    return {
        **_described(config, "smollm3", "SmolLM3ForCausalLM"),
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
        "use_sliding_window": False,
        "layer_types": ["full_attention"] * config.layers,
        "no_rope_layers": [int(kind != "nope") for kind in config.kinds()],
    }


def describe_mistral(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Mistral."""
    return {
        **_described(config, "mistral", "MistralForCausalLM"),
        "sliding_window": config.window if "sliding" in config.kinds() else None,
    }


def _describe_qwen(config: TransformerConfig) -> dict[str, Any]:
    slides = "sliding" in config.kinds()
    window = {"use_sliding_window": slides, "sliding_window": config.window if slides else None}
    return {**window, **_layer_types(config)}


def describe_qwen2(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Qwen 2."""
    return {**_described(config, "qwen2", "Qwen2ForCausalLM"), **_describe_qwen(config)}


def describe_qwen3(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Qwen 3."""
    return {
        **_described(config, "qwen3", "Qwen3ForCausalLM"),
        **_describe_qwen(config),
        "attention_bias": config.qkv_bias,
    }


def describe_gemma2(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Gemma 2."""
    scalar = config.query_scale**-2 if config.query_scale else config.head_dim
    return {
        **_described(config, "gemma2", "Gemma2ForCausalLM"),
        **_layer_types(config),
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": config.qkv_bias,
        "query_pre_attn_scalar": max(1, round(scalar)),
        "sliding_window": config.window or 4096,
        "attn_logit_softcapping": config.attention_softcap or None,
        "final_logit_softcapping": config.logit_softcap or None,
    }


def describe_gemma3(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Gemma 3's text model."""
    fields = describe_gemma2(config)
    fields |= {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"]}
    local = config.local_rope_theta or config.rope_theta
    return {
        **fields,
        "rope_local_base_freq": local,
        "rope_parameters": {
            "full_attention": fields["rope_parameters"],
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        },
    }


def _family(config: Callable[..., Any], describe: Callable[..., Any]) -> names.Family:
    return names.Family(config=config, describe=describe, sources=names.sources)


FAMILIES: dict[str, names.Family] = {
    "llama": _family(llama, describe_llama),
    "smollm3": _family(smollm3, describe_smollm3),
    "mistral": _family(mistral, describe_mistral),
    "qwen2": _family(qwen2, describe_qwen2),
    "qwen3": _family(qwen3, describe_qwen3),
    "gemma2": _family(gemma2, describe_gemma2),
    "gemma3_text": _family(gemma3, describe_gemma3),
}
