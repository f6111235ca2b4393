"""LFM2."""

from typing import Any

from alignjax.core import struct
from alignjax.models import attention, block, layers, short_conv
from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.families import common, experts
from alignjax.models.checkpoints.hf_config import Fields, kinds, rope_fields
from alignjax.models.checkpoints.names import Layer
from alignjax.models.checkpoints.sources import Source
from alignjax.models.config import TransformerConfig
from alignjax.models.config_parts import ConvConfig
from alignjax.models.transformer import Transformer

WORDS = {"conv": "conv", "full_attention": "full"}
# Of published files: how weights began.
BEGINNING = (
    *("block_mlp_init_scale", "block_out_init_scale"),
    *("block_use_xavier_init", "conv_use_xavier_init"),
)
THETA = 1000000.0


def config(fields: Fields) -> TransformerConfig:
    """LFM2 (Liquid AI 2025): layers of a short gated convolution, and among them full ones."""
    common.silu(fields)
    if fields.has("rms_norm_eps"):
        raise fields.error("rms_norm_eps", "be absent, for LFM2 has norm_eps", "a value")
    ties = fields.take("tie_embedding", None)
    if ties is not None:  # an older name, which transformers reads first
        fields.only("tie_word_embeddings", ties)
        ties = Fields({"tie_embedding": ties}, fields.where).flag("tie_embedding", True)
    older = fields.has("block_ff_dim")
    shape = common.shape(
        fields,
        kv_heads=8,
        tied=True if ties is None else ties,
        norm_eps=float(fields.number("norm_eps", 1e-5)),
        ff="block_ff_dim" if older else "intermediate_size",
    )
    if older:
        fields.take("intermediate_size", None)
    published(fields, shape)
    theta, scaling = rope_fields(fields, THETA)
    fields.only("theta", theta)
    bias, taps = fields.flag("conv_bias", False), fields.size("conv_L_cache", 3, most=1e4)
    return TransformerConfig(
        **{**shape, "ff": inner(fields, shape["ff"])},
        attention=mixers(fields, shape["layers"]),
        rope_theta=theta,
        rope=scaling,
        qk_norm="scaled",
        conv=ConvConfig(taps=taps, bias=bias),
    )


def published(fields: Fields, shape: dict[str, Any]) -> None:
    """Fields of published files that transformers does not read: they must say what it does."""
    for name in BEGINNING:
        fields.take(name, None)
    for name in ("block_dim", "conv_dim", "conv_dim_out"):
        fields.only(name, shape["width"])
    fields.only("num_heads", shape["heads"])
    fields.only("block_norm_eps", shape["norm_eps"])
    for name in ("block_use_swiglu", "use_pos_enc"):
        fields.only(name, True)


def inner(fields: Fields, ff: int) -> int:
    """The MLP's inner width: two thirds of what is stated, times a factor, up to a multiple."""
    several = fields.size("block_multiple_of", 256)
    factor = fields.nullable("block_ffn_dim_multiplier", 1.0)
    if not fields.flag("block_auto_adjust_ff_dim", True):
        return ff
    size = int(2 * ff / 3)
    if factor is None:
        return size
    own = Fields({"block_ffn_dim_multiplier": factor}, fields.where)
    return several * -(-int(own.number("block_ffn_dim_multiplier") * size) // several)


def mixers(fields: Fields, count: int) -> tuple[str, ...]:
    """Each layer's kind, by name or by the numbers of the full ones."""
    full = experts.numbers(fields, "full_attn_idxs", count)
    default = ["full" if full is None or n in full else "conv" for n in range(count)]
    named = fields.has("layer_types")
    found = kinds(fields, default, count, WORDS)
    own = [n for n in range(count) if found[n % len(found)] == "full"]
    if named and full is not None and full != own:
        raise fields.error("full_attn_idxs", f"be as in layer_types, {own!r:.80}", repr(full))
    return found


def describe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of an LFM2."""
    fields = common.described(config, "lfm2", "Lfm2ForCausalLM")
    for name in ("hidden_act", "rms_norm_eps"):
        del fields[name]
    words = {ours: theirs for theirs, ours in WORDS.items()}
    return {
        **fields,
        "norm_eps": config.norm_eps,
        "layer_types": [words.get(kind, "full_attention") for kind in config.kinds()],
        "conv_L_cache": config.conv.taps,
        "conv_bias": config.conv.bias,
        "block_auto_adjust_ff_dim": False,
    }


def attend(config: TransformerConfig, source: Layer) -> attention.Attention:
    """Sources of attention, whose norms and last map have names of their own."""
    whole: Any = names.grouped_attention(config, source)
    return struct.replace(
        whole,
        out=source("self_attn.out_proj.weight", "d (k g h) -> k g h d"),
        query_norm=source("self_attn.q_layernorm.weight"),
        key_norm=source("self_attn.k_layernorm.weight"),
    )


def convolution(config: TransformerConfig, source: Layer) -> short_conv.ShortConv:
    """Sources of the short convolution: both gates and what they weigh are one tensor."""
    d, bias = config.width, config.conv.bias
    places = {"in_gate": 0, "out_gate": 1, "value": 2}

    def part(name: str, axes: str) -> dict[str, Any]:
        rows = {part: (d * at, d * (at + 1), 3 * d) for part, at in places.items()}
        return {n: source(f"conv.in_proj.{name}", axes, rows=rows[n]) for n in places}

    shifts = {f"{n}_bias": x for n, x in part("bias", "c -> c").items()} if bias else {}
    one = {"sizes": {"one": 1}, "take": {"one": 0}}
    return short_conv.ShortConv(
        **part("weight", "c d -> d c"),
        **shifts,
        taps=source("conv.conv.weight", "c one w -> c w", **one),
        taps_bias=source("conv.conv.bias") if bias else None,
        out=source("conv.out_proj.weight", "d c -> c d"),
        out_bias=source("conv.out_proj.bias") if bias else None,
    )


def mlp(config: TransformerConfig, source: Layer) -> layers.Mlp:
    return layers.Mlp(
        gate=source("feed_forward.w1.weight", "f d -> d f"),
        up=source("feed_forward.w3.weight", "f d -> d f"),
        down=source("feed_forward.w2.weight", "d f -> f d"),
    )


def sources(config: TransformerConfig) -> Transformer:
    """The tree of Sources."""
    whole = names.sources(config, dense=mlp, attend=attend, mixer=convolution)

    def named(part: block.Block, numbers: range) -> block.Block:
        source = names.layer(numbers)
        norms = {"attention_norm": "operator_norm", "mlp_norm": "ffn_norm"}
        own = {ours: source(f"{theirs}.weight") for ours, theirs in norms.items()}
        return struct.replace(part, **own)

    runs = zip(whole.blocks, config.stacks(), strict=True)
    last: Any = Source("model.embedding_norm.weight")
    blocks = tuple(named(part, numbers) for part, (_, numbers) in runs)
    return struct.replace(whole, blocks=blocks, norm=last)


FAMILY = names.Family(config=config, describe=describe, sources=sources)
