"""The tensors of `transformers` behind each parameter of our Transformer."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from alignjax.models import attention, layers, mla
from alignjax.models.block import Block
from alignjax.models.checkpoints.hf_config import Fields
from alignjax.models.checkpoints.sources import Source
from alignjax.models.config import TransformerConfig
from alignjax.models.transformer import Transformer

# (name within the layer, axes) -> the Source over all layers of a stack, in the place of an array.
Layer = Callable[..., Any]
Part = Callable[[TransformerConfig, Layer], Any]  # sources of one part of a stack's layers


class Family(NamedTuple):
    """A family of models, under the `model_type` of its `config.json`.

    config: fields of a `config.json` -> TransformerConfig. describe: a `config.json` for it, and
    for no other: what the family cannot express is lost; special token ids are the tokenizer's to
    add. sources: config -> the tree of Sources. unread: patterns of tensors that a folder may hold
    and the model does not use. opened: (a folder's tensors, what is left out on request, where) ->
    its tensors under the names of `sources`. fused: our names of matrices that stand in one tensor
    with others, so that no adapter of peft is of one of them.
    """

    config: Callable[[Fields], TransformerConfig]
    describe: Callable[[TransformerConfig], dict[str, Any]]
    sources: Callable[[TransformerConfig], Transformer]
    unread: Callable[[TransformerConfig], tuple[str, ...]] = lambda config: ()
    opened: Callable[[Any, str, str], Any] = lambda tensors, skip, where: tensors
    fused: tuple[str, ...] = ()


def sources(
    config: TransformerConfig,
    mlp: Part | None = None,
    *,
    dense: Part | None = None,
    attend: Part | None = None,
    mixer: Part | None = None,
    norms: tuple[str, str, str] = ("post_attention", "pre_feedforward", "post_feedforward"),
) -> Transformer:
    """The Transformer of `config` with a `Source` in place of each parameter.

    mlp: sources of the layers with experts, for families that have them. dense, attend: those of
      other layers' MLPs and of attention, for families whose names differ. mixer: those of layers
      without keys. norms: the names, before "_layernorm", of the norms between attention
      and the stream, the stream and the MLP, the MLP and the stream, where there are norms after
      branches.
    """
    stacks = []
    for sparse, numbers in config.stacks():
        make = mlp if sparse else dense or dense_mlp
        if make is None:
            raise ValueError("this family's names know no experts (sources). Pass `mlp`.")
        heads = mixer if mixer and config.mixes(numbers[0]) else attend or grouped_attention
        stacks.append(block(config, numbers, make, heads, norms))
    single: Any = Source
    return Transformer(
        embed=single("model.embed_tokens.weight"),
        blocks=tuple(stacks),
        norm=single("model.norm.weight"),
        unembed=None if config.tied else single("lm_head.weight", "v d -> d v"),
    )


def layer(numbers: Sequence[int]) -> Layer:
    """The Layer of these layers."""

    def source(name: str, axes: str = "", **more: Any) -> Any:
        return Source(tuple(f"model.layers.{n}.{name}" for n in numbers), axes, **more)

    return source


def block(
    config: TransformerConfig,
    numbers: Sequence[int],
    mlp: Part,
    attend: Part,
    norms: tuple[str, str, str],
) -> Block:
    """Sources of a stack of layers."""
    source, post = layer(numbers), config.post_norms
    behind, after, last = (f"{name}_layernorm.weight" for name in norms)
    after = after if post else "post_attention_layernorm.weight"
    return Block(
        attention_norm=source("input_layernorm.weight") if config.pre_norms else None,
        attention=attend(config, source),
        mlp_norm=source(after) if config.pre_norms else None,
        mlp=mlp(config, source),
        attention_post_norm=source(behind) if post else None,
        mlp_post_norm=source(last) if post else None,
    )


def grouped_attention(config: TransformerConfig, source: Layer) -> attention.Attention:
    """Sources of a stack's attention weights. Heads of a matrix's rows are (kv head, group)."""
    bias, whole = config.qkv_bias, config.qk_norm == "whole"
    normed = whole or config.qk_norm == "scaled"
    own = ("(k g h) -> k g h", "(k h) -> k h") if whole else ("", "")
    # A gate of what is mixed stands behind each head's query, in one matrix with it.
    both = "two " if config.attention_gate else ""

    def half(number: int, name: str, axes: str) -> Any:
        split = {"sizes": {"two": 2}, "take": {"two": number}} if both else {}
        return source(f"self_attn.q_proj.{name}", axes, **split)

    query, shift = f"(k g {both}h) d -> d k g h", f"(k g {both}h) -> k g h"
    return attention.Attention(
        query=half(0, "weight", query),
        key=source("self_attn.k_proj.weight", "(k h) d -> d k h"),
        value=source("self_attn.v_proj.weight", "(k h) d -> d k h"),
        out=source("self_attn.o_proj.weight", "d (k g h) -> k g h d"),
        query_bias=half(0, "bias", shift) if bias else None,
        key_bias=source("self_attn.k_proj.bias", "(k h) -> k h") if bias else None,
        value_bias=source("self_attn.v_proj.bias", "(k h) -> k h") if bias else None,
        out_bias=source("self_attn.o_proj.bias") if config.out_bias else None,
        query_norm=source("self_attn.q_norm.weight", own[0]) if normed else None,
        key_norm=source("self_attn.k_norm.weight", own[1]) if normed else None,
        out_gate=half(1, "weight", query) if both else None,
        out_gate_bias=half(1, "bias", shift) if both and bias else None,
        sinks=source("self_attn.sinks", "(k g) -> k g") if config.sinks else None,
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


def dense_mlp(config: TransformerConfig, source: Layer) -> layers.Mlp:
    """Sources of a stack's gated MLP."""
    bias = config.mlp_bias
    return layers.Mlp(
        gate=source("mlp.gate_proj.weight", "f d -> d f"),
        up=source("mlp.up_proj.weight", "f d -> d f"),
        down=source("mlp.down_proj.weight", "d f -> f d"),
        gate_bias=source("mlp.gate_proj.bias") if bias else None,
        up_bias=source("mlp.up_proj.bias") if bias else None,
        down_bias=source("mlp.down_proj.bias") if bias else None,
    )


def gguf_sources(config: TransformerConfig) -> Transformer:
    """The same for a GGUF file of a Llama.

    GGUF keeps the two halves of a query or key head, which turn together, as neighbours; the axes
    put them back.
    """
    numbers = range(config.layers)

    def source(name: str, axes: str = "", **more: Any) -> Any:
        return Source(tuple(f"blk.{n}.{name}.weight" for n in numbers), axes, **more)

    halves = {"two": 2, "half": config.head_dim // 2}
    single: Any = Source
    return Transformer(
        embed=single("token_embd.weight"),
        blocks=(
            Block(
                attention_norm=source("attn_norm"),
                attention=attention.Attention(
                    query=source("attn_q", "(k g half two) d -> d k g (two half)", sizes=halves),
                    key=source("attn_k", "(k half two) d -> d k (two half)", sizes=halves),
                    value=source("attn_v", "(k h) d -> d k h"),
                    out=source("attn_output", "d (k g h) -> k g h d"),
                ),
                mlp_norm=source("ffn_norm"),
                mlp=layers.Mlp(
                    gate=source("ffn_gate", "f d -> d f"),
                    up=source("ffn_up", "f d -> d f"),
                    down=source("ffn_down", "d f -> f d"),
                ),
            ),
        ),
        norm=single("output_norm.weight"),
        unembed=None if config.tied else single("output.weight", "v d -> d v"),
    )
