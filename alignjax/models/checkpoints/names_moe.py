"""The tensors of `transformers` behind experts and latent attention."""

from typing import Any

from alignjax.models import layers, mla, moe
from alignjax.models.checkpoints.names import Layer
from alignjax.models.checkpoints.sources import Source
from alignjax.models.config import TransformerConfig


def _experts(count: int, source: Layer, name: str, axes: str) -> Any:
    """A source over layers and experts, from the name of one expert's tensor with its number."""
    columns = [source(name.format(number)).names for number in range(count)]
    return Source(tuple(zip(*columns, strict=True)), axes)


def _mixture(
    config: TransformerConfig, source: Layer, *, inside: str, parts: tuple[str, str, str]
) -> moe.Moe:
    """Sources of experts that are stored one by one; `parts` names gate, up and down."""
    gate, up, down = (f"{inside}.experts.{{}}.{part}.weight" for part in parts)
    shared = f"{inside}.shared_experts"
    correction = f"{inside}.gate.e_score_correction_bias"
    count = config.moe.experts
    return moe.Moe(
        router=source(f"{inside}.gate.weight", "e d -> d e"),
        gate=_experts(count, source, gate, "f d -> d f"),
        up=_experts(count, source, up, "f d -> d f"),
        down=_experts(count, source, down, "d f -> f d"),
        shared=_mlp(source, shared) if config.moe.shared_ff else None,
        correction=source(correction) if config.moe.bias_correction else None,
    )


def _mlp(source: Layer, inside: str) -> layers.Mlp:
    return layers.Mlp(
        gate=source(f"{inside}.gate_proj.weight", "f d -> d f"),
        up=source(f"{inside}.up_proj.weight", "f d -> d f"),
        down=source(f"{inside}.down_proj.weight", "d f -> f d"),
    )


def mixtral_mixture(config: TransformerConfig, source: Layer) -> moe.Moe:
    """Mixtral's experts: w1 is the gate, w3 the other way in."""
    return _mixture(config, source, inside="block_sparse_moe", parts=("w1", "w3", "w2"))


def numbered_mixture(config: TransformerConfig, source: Layer) -> moe.Moe:
    """Experts of Qwen 3 MoE and DeepSeek V3."""
    return _mixture(config, source, inside="mlp", parts=("gate_proj", "up_proj", "down_proj"))


def llama4_mixture(config: TransformerConfig, source: Layer) -> moe.Moe:
    """Llama 4's experts: all in one tensor, gate and up side by side."""
    inside = "feed_forward"
    fused, halves = f"{inside}.experts.gate_up_proj", {"two": 2}
    split = "e d (two f) -> e d f"
    return moe.Moe(
        router=source(f"{inside}.router.weight", "e d -> d e"),
        gate=source(fused, split, sizes=halves, take={"two": 0}),
        up=source(fused, split, sizes=halves, take={"two": 1}),
        down=source(f"{inside}.experts.down_proj"),
        shared=_mlp(source, f"{inside}.shared_expert"),
    )


def latent_attention(config: TransformerConfig, source: Layer) -> mla.Mla:
    """Sources of a stack's latent attention: two tensors hold two parameters each."""
    latent, bias, low = config.mla, config.out_bias, config.mla.query_rank > 0
    inside = "self_attn"
    rows = {"x": latent.kv_rank + latent.rope_dim}
    first, rest = {"x": (0, latent.kv_rank)}, {"x": (latent.kv_rank, rows["x"])}
    wide = {"x": config.head_dim + latent.value_dim}
    own, values = {"x": (0, config.head_dim)}, {"x": (config.head_dim, wide["x"])}
    down, both = f"{inside}.kv_a_proj_with_mqa", f"{inside}.kv_b_proj.weight"
    query = "q_b_proj" if low else "q_proj"
    a = f"{inside}.q_a_proj"
    return mla.Mla(
        query=source(f"{inside}.{query}.weight", "(k h) q -> q k h"),
        latent=source(f"{down}.weight", "x d -> d x", sizes=rows, take=first),
        latent_norm=source(f"{inside}.kv_a_layernorm.weight"),
        rotated=source(f"{down}.weight", "x d -> d x", sizes=rows, take=rest),
        key=source(both, "(k x) r -> r k x", sizes=wide, take=own),
        value=source(both, "(k x) r -> r k x", sizes=wide, take=values),
        out=source(f"{inside}.o_proj.weight", "d (k u) -> k u d"),
        query_down=source(f"{a}.weight", "q d -> d q") if low else None,
        query_norm=source(f"{inside}.q_a_layernorm.weight") if low else None,
        query_down_bias=source(f"{a}.bias") if low and bias else None,
        latent_bias=source(f"{down}.bias", "x -> x", sizes=rows, take=first) if bias else None,
        rotated_bias=source(f"{down}.bias", "x -> x", sizes=rows, take=rest) if bias else None,
        out_bias=source(f"{inside}.o_proj.bias") if bias else None,
    )


def llama4_mlp(config: TransformerConfig, source: Layer) -> layers.Mlp:
    """Llama 4's layers without experts."""
    return _mlp(source, "feed_forward")
