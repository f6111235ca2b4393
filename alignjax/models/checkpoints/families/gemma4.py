"""Gemma 4, text."""

from typing import Any

from alignjax.core import struct
from alignjax.models import beside, block, config_parts, layer_inputs, moe
from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.families import common, composite, gemma2
from alignjax.models.checkpoints.hf_config import Fields
from alignjax.models.checkpoints.sources import Source
from alignjax.models.config import MoeConfig, TransformerConfig
from alignjax.models.config_parts import LentConfig, WideConfig
from alignjax.models.transformer import Transformer

# The positions of a file that says nothing of them.
ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {
        "rope_type": "proportional",
        "partial_rotary_factor": 0.25,
        "rope_theta": 1000000.0,
    },
}
EVERY = 6  # layers to a full one
EXPERTS = {"num_experts": "experts", "top_k_experts": "active", "moe_intermediate_size": "ff"}
OWN_KEYS = ("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias", "k_norm.weight")


def config(fields: Fields) -> TransformerConfig:
    """Gemma 4, text (Google 2026): windows among full layers whose heads have other sizes, last
    layers that see the keys of earlier ones, an embedding of each layer's own, norms of queries,
    keys and values, scores without a scale, and experts beside the dense MLP or none."""
    for name in ("hidden_activation", "hidden_act"):
        fields.only(name, "gelu_pytorch_tanh")
    fields.only("use_bidirectional_attention", "vision")  # of images; text stays causal
    shape = common.shape(fields, head_dim=256, kv_heads=4, tied=True)
    bias = fields.flag("attention_bias", False)
    seen = windows(fields, shape["layers"])
    rope = fields.take("rope_parameters", ROPE)
    local, theta, scaling = common.rope_by_kind(
        Fields({"rope_parameters": rope}, fields.where), 1e6, 1e4, more=("proportional",)
    )
    return TransformerConfig(
        **shape,
        **seen,
        activation="gelu",
        post_norms=True,
        embed_scale=shape["width"] ** 0.5,
        query_scale=1.0,
        qkv_bias=bias,
        out_bias=bias,
        qk_norm="scaled",
        value_norm=True,
        rope_theta=theta,
        rope=scaling,
        local_rope_theta=local,
        logit_softcap=gemma2.cap(fields, "final_logit_softcapping", None),
        wide=wide(fields, shape, seen["attention"]),
        lent=lent(fields, shape["ff"]),
        layer_inputs=inputs(fields, shape["vocab_size"]),
        layer_scales=True,
        moe=routed(fields),
    )


def routed(fields: Fields) -> MoeConfig:
    """The experts. transformers reads nothing of them where they are not enabled."""
    told = {name: fields.take(name, None) for name in EXPERTS}
    if not fields.flag("enable_moe_block", False):
        return MoeConfig()
    own = Fields(told, fields.where)
    sizes: dict[str, Any] = {ours: own.size(name, most=1e6) for name, ours in EXPERTS.items()}
    return MoeConfig(**sizes, beside=True)


def whole_number(fields: Fields, name: str, absent: int) -> int:
    """A whole number, 0 too."""
    value = fields.take(name, absent)
    if type(value) is not int or not 0 <= value <= 1e9:
        raise fields.error(name, "be a whole number", repr(value))
    return value


def windows(fields: Fields, layers: int) -> dict[str, Any]:
    """Kinds of layers and the window. The last one must be full, as transformers makes it."""
    default = ["sliding" if (n + 1) % EVERY and n + 1 < layers else "full" for n in range(layers)]
    types = fields.take("layer_types", None)
    told = {} if types is None else {"layer_types": types}
    told["sliding_window"] = fields.nullable("sliding_window", 512)
    seen = common.windowed(Fields(told, fields.where), default, layers)
    kinds = seen["attention"]
    if "chunked" in kinds or kinds[(layers - 1) % len(kinds)] != "full":
        rule = "be sliding_attention and full_attention, which the last is"
        raise fields.error("layer_types", rule, repr(types))
    return seen


def wide(fields: Fields, shape: dict[str, Any], attention: tuple[str, ...]) -> WideConfig:
    """Heads of full layers, told by one field each, or layer by layer (`per_layer_config`)."""
    single = fields.flag("attention_k_eq_v", False)
    told = {"head_dim": fields.take("global_head_dim", None)}
    told["num_key_value_heads"] = fields.take("num_global_key_value_heads", None)
    if not single:  # where values have maps of their own transformers reads no such number
        told["num_key_value_heads"] = None
    layers, by_layer = shape["layers"], fields.take("per_layer_config", None)
    sizes = {"head_dim": 512, "num_key_value_heads": shape["kv_heads"]}
    if by_layer is not None:
        full = [n for n in range(layers) if attention[n % len(attention)] == "full"]
        found = alike(fields, by_layer, full)
        sizes |= {"head_dim": shape["head_dim"], **found}
        for name, size in told.items():
            if size is not None and size != sizes[name]:
                rule = f"say the {name} of the fields for all full layers, {size!r:.40}"
                raise fields.error("per_layer_config", rule, repr(sizes[name]))
    else:
        sizes |= {name: size for name, size in told.items() if size is not None}
    own = Fields(sizes, f"{fields.where}, full layers")
    return WideConfig(
        head_dim=own.size("head_dim", most=1e5),
        kv_heads=own.size("num_key_value_heads", most=1e5),
        single=single,
    )


def alike(fields: Fields, by_layer: Any, full: list[int]) -> dict[str, Any]:
    """What `per_layer_config` says of every full layer, and of no other."""
    rule = "give every full layer the same head_dim or num_key_value_heads, and others none"
    error = fields.error("per_layer_config", rule, repr(by_layer))
    if not isinstance(by_layer, dict) or not all(str(n).isdecimal() for n in by_layer):
        raise error
    own = {int(n): values for n, values in by_layer.items() if values}
    found = own.get(full[0], {})
    if sorted(own) != (full if found else []) or any(own[n] != found for n in own):
        raise error
    if not isinstance(found, dict) or not found.keys() <= {"head_dim", "num_key_value_heads"}:
        raise error
    return found


def lent(fields: Fields, ff: int) -> LentConfig:
    """The last layers, which see the keys of earlier ones, and their MLPs."""
    layers = whole_number(fields, "num_kv_shared_layers", 0)
    double = fields.flag("use_double_wide_mlp", False)
    return LentConfig(layers=layers, ff=2 * ff if double and layers else 0)


def inputs(fields: Fields, vocab_size: int) -> int:
    """The width of each layer's own embedding, whose table is of the same tokens."""
    width = whole_number(fields, "hidden_size_per_layer_input", 256)
    rows = fields.take("vocab_size_per_layer_input", 262144)
    if width and rows != vocab_size:
        raise fields.error("vocab_size_per_layer_input", f"be vocab_size, {vocab_size}", repr(rows))
    return width


def describe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Gemma 4's text model."""
    fields = common.described(config, "gemma4_text", "Gemma4ForCausalLM")
    for name in ("hidden_act", "rope_theta", "rope_scaling"):
        fields.pop(name, None)
    own = {"head_dim": config.wide.head_dim, "num_key_value_heads": config.wide.kv_heads}
    full = [n for n, kind in enumerate(config.kinds()) if kind == "full"]
    return {
        **fields,
        **common.layer_types(config),
        **common.described_by_kind(config),
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": config.qkv_bias,
        "sliding_window": config.window or 512,
        "final_logit_softcapping": config.logit_softcap or None,
        "attention_k_eq_v": config.wide.single,
        "global_head_dim": config.wide.head_dim,
        "num_global_key_value_heads": config.wide.kv_heads,
        "per_layer_config": {str(n): own for n in full},
        "num_kv_shared_layers": config.lent.layers,
        "use_double_wide_mlp": config.lent.ff > 0,
        "hidden_size_per_layer_input": config.layer_inputs,
        "vocab_size_per_layer_input": config.vocab_size,
        "enable_moe_block": config.moe.experts > 0,
        **{name: getattr(config.moe, ours) or None for name, ours in EXPERTS.items()},
    }


def sources(config: TransformerConfig) -> Transformer:
    """The tree of Sources."""
    whole, table = names.sources(config, names.dense_mlp), None
    if config.layer_inputs:
        single: Any = Source
        table = layer_inputs.Inputs(
            embed_table=single("model.embed_tokens_per_layer.weight"),
            project=single("model.per_layer_model_projection.weight", "(n p) d -> n d p"),
            norm=single("model.per_layer_projection_norm.weight"),
        )
    runs = zip(whole.blocks, config.stacks(), strict=True)
    blocks = tuple(_own(config, part, numbers) for part, (_, numbers) in runs)
    return struct.replace(whole, blocks=blocks, inputs=table)


def _own(config: TransformerConfig, part: block.Block, numbers: range) -> block.Block:
    """Sources of a run of layers with what is special to Gemma 4."""
    source, heads = names.layer(numbers), config_parts.heads(config, numbers[0])
    left = [] if heads.keys else ["key", "key_bias", "key_norm"]
    left += [] if heads.values else ["value", "value_bias"]
    attend: Any = struct.replace(part.attention, **dict.fromkeys(left))
    reader = layer_inputs.Reader(
        open=source("per_layer_input_gate.weight", "p d -> d p"),
        back=source("per_layer_projection.weight", "d p -> p d"),
        norm=source("post_per_layer_input_norm.weight"),
    )
    return struct.replace(
        part,
        attention=attend,
        reader=reader if config.layer_inputs else None,
        joined=_beside(source) if config.moe.experts else None,
        scalar=source("layer_scalar") if config.layer_scales else None,
    )


def _beside(source: names.Layer) -> beside.Beside:
    """Sources of the experts, which stand side by side, and of their norms."""
    both, split, halves = "experts.gate_up_proj", "e (two f) d -> e d f", {"two": 2}
    norm = "feedforward_layernorm"
    return beside.Beside(
        experts=moe.Moe(
            router=source("router.proj.weight", "e d -> d e"),
            gate=source(both, split, sizes=halves, take={"two": 0}),
            up=source(both, split, sizes=halves, take={"two": 1}),
            down=source("experts.down_proj", "e d f -> e f d"),
            expert_scale=source("router.per_expert_scale"),
        ),
        experts_norm=source(f"pre_{norm}_2.weight"),
        experts_post_norm=source(f"post_{norm}_2.weight"),
        dense_post_norm=source(f"post_{norm}_1.weight"),
        router_norm=source("router.scale"),
    )


def unread(config: TransformerConfig) -> tuple[str, ...]:
    """What layers that see the keys of others may hold, and transformers does not read either."""
    behind = range(config.layers - config.lent.layers, config.layers)
    return tuple(f"model.layers.{n}.self_attn.{name}" for n in behind for name in OWN_KEYS)


FAMILY = names.Family(config=config, describe=describe, sources=sources, unread=unread)

# Of text, images and sound, as published.
COMPOSITE = composite.Composite(
    text="gemma4_text",
    architecture="Gemma4ForCausalLM",
    hears=True,
    fields=(
        "audio_config",
        *(f"{what}_token_id" for what in ("image", "video", "audio", "boi", "eoi", "boa", "eoa")),
        "eoa_token_index",
        "vision_soft_tokens_per_image",
    ),
    # Those of transformers.
    defaults={
        "vocab_size": 262144,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 30,
        "num_attention_heads": 8,
    },
)
