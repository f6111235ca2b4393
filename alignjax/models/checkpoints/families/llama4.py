"""Llama 4, text."""

from typing import Any

from alignjax.models import layers, moe
from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.families import common, composite, experts
from alignjax.models.checkpoints.hf_config import Fields, period, rope_fields
from alignjax.models.checkpoints.names import Layer
from alignjax.models.config import MoeConfig, TransformerConfig


def config(fields: Fields) -> TransformerConfig:
    """Llama 4, text (Meta 2025): chunked layers that turn, full layers without positions whose
    queries grow with the place, one expert a token beside a shared one."""
    common.silu(fields)
    experts.training_only(fields)
    theta, scaling = rope_fields(fields, 500000.0)
    bias, width = fields.flag("attention_bias", False), fields.size("intermediate_size", 8192)
    shape = common.shape(
        fields, head_dim=128, kv_heads=8, norm_eps=1e-5, ff="intermediate_size_mlp"
    )
    count = shape["layers"]
    step = fields.size("interleave_moe_layer_step", 1, most=1e5)
    sparse = experts.numbers(fields, "moe_layers", count)
    sparse = list(range(step - 1, count, step)) if sparse is None else sparse
    attended = _kinds(fields, count)
    chunk = fields.nullable("attention_chunk_size", 8192)
    tuned = fields.take("attn_temperature_tuning", True)
    if not isinstance(tuned, int):  # published files say 4 for true
        raise fields.error("attn_temperature_tuning", "be true or false", repr(tuned))
    grown = float(fields.number("attn_scale", 0.1))
    span = fields.size("floor_scale", 8192)
    plain = fields.flag("use_qk_norm", True)
    if plain and scaling.kind == "yarn":
        scaling.attention_factor = 1.0  # its norm follows the turn, which takes any length away
    fields.only("for_llm_compression", False)
    routed = MoeConfig(
        experts=experts.count(fields, 16),
        active=experts.active(fields, 1),
        ff=width,
        shared_ff=width,
        scores="sigmoid",
        normalise=False,
        weigh_inputs=True,
        dense=tuple(n for n in range(count) if n not in sparse),
    )
    own = Fields({"attention_chunk_size": chunk}, fields.where)
    return TransformerConfig(
        **shape,
        attention=attended,
        window=own.size("attention_chunk_size") if "chunked" in attended else 0,
        rope_theta=theta,
        rope=scaling,
        rope_interleaved=True,
        qkv_bias=bias,
        out_bias=bias,
        qk_norm="plain" if plain else "none",
        query_tuning=grown if tuned else 0.0,
        query_tuning_span=span if tuned else 8192,
        moe=routed,
    )


def _kinds(fields: Fields, count: int) -> tuple[str, ...]:
    """Each layer's kind of attention, from which layers turn and which have chunks."""
    every = fields.size("no_rope_layer_interval", 4, most=1e5)
    turns = fields.take("no_rope_layers", None)
    turns = turns or [int((n + 1) % every != 0) for n in range(count)]
    told = isinstance(turns, list) and len(turns) >= count
    if not told or any(type(turn) not in (int, bool) or turn not in (0, 1) for turn in turns):
        raise fields.error("no_rope_layers", f"say 0 or 1 of all {count} layers", repr(turns))
    masks = fields.take("layer_types", None)
    if masks is not None and not isinstance(masks, list):
        raise fields.error("layer_types", "be a list", repr(masks))
    masks = masks or ["chunked_attention" if turn else "full_attention" for turn in turns[:count]]
    kinds = {
        (True, "chunked_attention"): "chunked",
        (True, "full_attention"): "full",
        (False, "full_attention"): "nope",
    }
    pairs = [(bool(turn), kind) for turn, kind in zip(turns, masks, strict=False)]
    wrong = [pair for pair in pairs if pair not in kinds]
    if wrong or len(masks) != count:
        raise fields.error(
            "layer_types", "be full_attention where a layer does not turn, one a layer", repr(masks)
        )
    return period([kinds[pair] for pair in pairs])


def describe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Llama 4's text model."""
    attended = config.kinds()
    sparse = [n for has, numbers in config.stacks() if has for n in numbers]
    masks = {"chunked": "chunked_attention"}
    return {
        **experts.described(config, "llama4_text", "Llama4ForCausalLM"),
        "head_dim": config.head_dim,
        "attention_bias": config.qkv_bias,
        "use_qk_norm": config.qk_norm == "plain",
        "intermediate_size": config.moe.ff,
        "intermediate_size_mlp": config.ff,
        "num_local_experts": config.moe.experts,
        "moe_layers": sparse,
        "no_rope_layers": [int(kind != "nope") for kind in attended],
        "layer_types": [masks.get(kind, "full_attention") for kind in attended],
        "attention_chunk_size": config.window or 8192,  # read where no layer has chunks too
        "attn_temperature_tuning": config.query_tuning > 0,
        "attn_scale": config.query_tuning or 0.1,
        "floor_scale": config.query_tuning_span,
    }


def mixture(config: TransformerConfig, source: Layer) -> moe.Moe:
    """Llama 4's experts: all in one tensor, gate and up side by side."""
    inside = "feed_forward"
    fused, halves = f"{inside}.experts.gate_up_proj", {"two": 2}
    split = "e d (two f) -> e d f"
    return moe.Moe(
        router=source(f"{inside}.router.weight", "e d -> d e"),
        gate=source(fused, split, sizes=halves, take={"two": 0}),
        up=source(fused, split, sizes=halves, take={"two": 1}),
        down=source(f"{inside}.experts.down_proj"),
        shared=experts.mlp(source, f"{inside}.shared_expert"),
    )


def dense(config: TransformerConfig, source: Layer) -> layers.Mlp:
    """Llama 4's layers without experts."""
    return experts.mlp(source, "feed_forward")


FAMILY = names.Family(
    config=config,
    describe=describe,
    sources=lambda config: names.sources(config, mixture, dense=dense),
)

# Of text and images, as published.
COMPOSITE = composite.Composite(
    text="llama4_text",
    architecture="Llama4ForCausalLM",
    fields=("boi_token_index", "eoi_token_index", "image_token_index"),
    ties=False,
)
