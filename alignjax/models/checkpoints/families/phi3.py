"""Phi-3, Phi-3.5 and Phi-4."""

from typing import Any

from alignjax.models import attention
from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.families import common
from alignjax.models.checkpoints.hf_config import Fields, table
from alignjax.models.checkpoints.names import Layer
from alignjax.models.config import TransformerConfig


def config(fields: Fields) -> TransformerConfig:
    """Phi-3 (Abdin et al. 2024): a Llama whose heads may turn in part, with a window on all layers
    or none."""
    common.silu(fields)
    for name in ("resid_pdrop", "embd_pdrop"):
        fields.only(name, 0, 0.0)
    for name in ("attention_bias", "mlp_bias", "lm_head_bias"):  # of Phi-4-mini's files
        fields.only(name, False)
    for name in ("full_attn_mod", "interpolate_factor"):
        fields.only(name, 1)
    shape = common.shape(fields, norm_eps=1e-5)
    context = fields.size("max_position_embeddings", 4096)
    trained = fields.size("original_max_position_embeddings", 4096)
    turned, _ = common.partial_rope(
        _longrope(fields, trained), 1.0, shape["head_dim"], more=("longrope",), context=context
    )
    window = fields.nullable("sliding_window", None)
    own = Fields({"sliding_window": window}, fields.where)
    seen = common.windowed(own, ["full" if window is None else "sliding"], 1)
    return TransformerConfig(**shape, **seen, **turned)


def _longrope(fields: Fields, trained: int) -> Fields:
    """The rotary fields, with the one kind of scaling that this family has by its present name and
    with its original length, which stands outside."""
    found: dict[str, Any] = {}
    for name in ("rope_parameters", "rope_scaling"):
        values = table(fields, name)
        kind = values.pop("type", None)
        kind = values.pop("rope_type", None) or kind or "default"
        if kind not in ("default", "longrope", "su", "yarn"):
            raise fields.error(f"{name}.rope_type", "be default or longrope", repr(kind))
        if kind != "default":
            kind = "longrope"
            values = {**values, "original_max_position_embeddings": trained}
        found[name] = {**values, "rope_type": kind} if values or kind != "default" else None
    for name in ("rope_theta", "partial_rotary_factor"):
        found[name] = fields.take(name, None)
    return Fields(found, fields.where)


def describe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Phi-3."""
    rope = config.rope
    trained = {"original_max_position_embeddings": rope.original_length}
    return {
        **common.described(config, "phi3", "Phi3ForCausalLM"),
        **common.described_part(config),
        "sliding_window": config.window if "sliding" in config.kinds() else None,
        **(trained if rope.kind == "longrope" else {}),
    }


def attend(config: TransformerConfig, source: Layer) -> attention.Attention:
    """Queries, keys and values are the rows of one matrix, in this order."""
    both, size = "self_attn.qkv_proj.weight", config.head_dim
    first, own = config.heads * size, config.kv_heads * size
    second, total = first + own, first + 2 * own
    rows = "(k h) d -> d k h"
    return attention.Attention(
        query=source(both, "(k g h) d -> d k g h", rows=(0, first, total)),
        key=source(both, rows, rows=(first, second, total)),
        value=source(both, rows, rows=(second, total, total)),
        out=source("self_attn.o_proj.weight", "d (k g h) -> k g h d"),
    )


FAMILY = names.Family(
    config=config,
    describe=describe,
    sources=lambda config: names.sources(
        config, dense=lambda config, source: common.fused(source), attend=attend
    ),
    fused=("query", "key", "value", "gate", "up"),
)
