"""What families share: fields that all read alike, and that all write alike."""

import math
from collections.abc import Sequence
from typing import Any

from alignjax.models import layers
from alignjax.models.checkpoints.hf_config import (
    Fields,
    described_rope,
    kinds,
    rope_fields,
    spelled_twice,
    table,
)
from alignjax.models.checkpoints.names import Layer
from alignjax.models.config import TransformerConfig


def shape(
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


def partial_rope(
    fields: Fields, absent: float, head_dim: int, *, unread: Sequence[str] = (), **more: Any
) -> tuple[dict[str, Any], int]:
    """(rotary fields of a TransformerConfig, dimensions of a head that turn) of a family whose
    heads may turn in part; more: of `rope_fields`.

    absent: `partial_rotary_factor` where no field says it, beside the others or among them. unread:
    fields among the rotary ones that say nothing of text.
    """
    own = {name: table(fields, name) for name in ("rope_parameters", "rope_scaling")}
    for values in own.values():
        for name in unread:
            values.pop(name, None)
    parts = [fields.take("partial_rotary_factor", None)]
    parts += [values.pop("partial_rotary_factor", None) for values in own.values()]
    told = {part for part in parts if part is not None}
    if len(told) > 1:
        raise fields.error("partial_rotary_factor", "be the same wherever it stands", repr(told))
    only = Fields({"partial_rotary_factor": told.pop() if told else absent}, fields.where)
    size = int(head_dim * only.number("partial_rotary_factor", most=1))
    if size < 2 or size % 2:
        rule = f"turn an even number of a head's {head_dim} dimensions"
        raise fields.error("partial_rotary_factor", rule, f"{size} of them")
    base = {"rope_theta": fields.take("rope_theta", None)}
    theta, scaling = rope_fields(Fields({**own, **base}, fields.where), 10000.0, **more)
    turned = size if size < head_dim else 0
    return {"rope_theta": theta, "rope": scaling, "rope_dim": turned}, size


def described_part(config: TransformerConfig) -> dict[str, Any]:
    """The fields that `partial_rope` reads."""
    size, whole = config.rotated(), config.head_dim
    part = size / whole
    part = part if int(whole * part) == size else math.nextafter(part, 2)
    fields = spelled_twice(config.rope_theta, config.rope)
    fields["rope_parameters"] = {**fields["rope_parameters"], "partial_rotary_factor": part}
    return {**fields, "partial_rotary_factor": part}


def fused(source: Layer) -> layers.Mlp:
    """Sources of a dense MLP whose gate and way in are one tensor, side by side."""
    both, split, halves = "mlp.gate_up_proj.weight", "(two f) d -> d f", {"two": 2}
    return layers.Mlp(
        gate=source(both, split, sizes=halves, take={"two": 0}),
        up=source(both, split, sizes=halves, take={"two": 1}),
        down=source("mlp.down_proj.weight", "d f -> f d"),
    )


def rope_by_kind(
    fields: Fields, full: float, sliding: float, *, more: tuple[str, ...] = ()
) -> tuple[float, float, Any]:
    """(base of sliding layers, base of full layers, scaling of full layers).

    full, sliding: the bases of absent fields. more: of `rope_fields`. transformers has a field for
    YaRN's `truncate` and does not apply it where kinds of layers turn apart: such a model is
    refused.
    """
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
    theta, scaling = rope_fields(older, full, more=more)
    base = {"rope_theta": fields.take("rope_local_base_freq", None)}
    local, stretched = rope_fields(
        Fields({"rope_parameters": new["sliding_attention"], **base}, fields.where), sliding
    )
    if stretched.kind != "none":
        raise fields.error("rope_type", "be default for sliding layers", stretched.kind)
    if not scaling.truncate:
        raise fields.error("rope_parameters.truncate", "be true beside layer kinds", "false")
    return local, theta, scaling


def described_by_kind(config: TransformerConfig) -> dict[str, Any]:
    """The `rope_parameters` that `rope_by_kind` reads."""
    local = config.local_rope_theta or config.rope_theta
    return {
        "rope_parameters": {
            "full_attention": described_rope(config.rope_theta, config.rope),
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        }
    }


def described(config: TransformerConfig, kind: str, architecture: str) -> dict[str, Any]:
    """Fields that all families write alike."""
    length = round(config.rope.original_length * config.rope.factor)
    if config.rope.kind == "dynamic":  # whose original length is the one that is stated
        length = config.rope.original_length
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


def layer_types(config: TransformerConfig) -> dict[str, Any]:
    sliding = {"sliding": "sliding_attention"}
    return {"layer_types": [sliding.get(kind, "full_attention") for kind in config.kinds()]}
