"""Families with experts: Mixtral, Qwen 3 MoE, DeepSeek V3, Llama 4 (text).

For each: what its `config.json` means, and the fields that describe a configuration to others.
Router losses of a `config.json` (`router_aux_loss_coef`) are not taken over: they are choices of a
training run, off until `model.moe.balance_loss` is set. The tensors are in `names_moe.py`.
"""

from typing import Any

from alignjax.models.checkpoints import names, names_moe
from alignjax.models.checkpoints.dense import common, silu, windowed
from alignjax.models.checkpoints.hf_config import Fields, period, rope_fields, spelled_twice
from alignjax.models.config import MlaConfig, MoeConfig, TransformerConfig


def _training_only(fields: Fields) -> None:
    """Fields that change a training run in other libraries, and nothing of the function."""
    fields.only("router_jitter_noise", 0, 0.0)
    for name in ("output_router_logits", "router_aux_loss_coef"):
        fields.take(name, None)


def _count(fields: Fields, default: int) -> int:
    """Experts: newer files write `num_local_experts` for all families."""
    older = fields.take("num_experts", None)
    if fields.has("num_local_experts"):
        count = fields.size("num_local_experts", most=1e5)
        if older is not None and older != count:
            raise fields.error("num_experts", f"be num_local_experts, {count}", repr(older))
        return count
    return Fields({"num_experts": older}, fields.where).size("num_experts", default, most=1e5)


def _numbers(fields: Fields, name: str, layers: int) -> list[int] | None:
    """Numbers of layers, or None where there are none."""
    numbers = fields.take(name, None)
    if numbers is None:
        return None
    whole = isinstance(numbers, list) and all(type(n) is int and 0 <= n < layers for n in numbers)
    if not whole:
        raise fields.error(name, f"be a list of layers below {layers}", repr(numbers))
    return sorted(set(numbers))


def _active(fields: Fields, default: int) -> int:
    return fields.size("num_experts_per_tok", default, most=1e5)


def mixtral(fields: Fields) -> TransformerConfig:
    """Mixtral (Jiang et al. 2024): experts in every layer, softmax over the chosen."""
    silu(fields)
    _training_only(fields)
    theta, scaling = rope_fields(fields, 1000000.0)
    shape = common(fields, kv_heads=8, norm_eps=1e-5)
    kind = "sliding" if fields.has("sliding_window") else "full"
    active = _active(fields, 2)
    return TransformerConfig(
        **shape,
        **windowed(fields, [kind] * shape["layers"], shape["layers"]),
        rope_theta=theta,
        rope=scaling,
        moe=MoeConfig(experts=_count(fields, 8), active=active, ff=shape["ff"]),
    )


def qwen3_moe(fields: Fields) -> TransformerConfig:
    """Qwen 3 MoE (Yang et al. 2025): softmax over all experts, norms of queries and keys."""
    silu(fields)
    _training_only(fields)
    theta, scaling = rope_fields(fields, 10000.0)
    bias = fields.flag("attention_bias", False)
    shape = common(fields, kv_heads=4)
    # A window counts only where it is used, and null is none.
    slides, window = (
        fields.flag("use_sliding_window", False),
        fields.nullable("sliding_window", 4096),
    )
    slides = slides and window is not None
    experts = MoeConfig(
        experts=_count(fields, 128),
        active=_active(fields, 8),
        ff=fields.size("moe_intermediate_size", 768),
        normalise=fields.flag("norm_topk_prob", False),
        every=fields.size("decoder_sparse_step", 1, most=1e5),
        dense=tuple(_numbers(fields, "mlp_only_layers", shape["layers"]) or ()),
    )
    own = Fields({"sliding_window": window}, fields.where)
    return TransformerConfig(
        **shape,
        attention=("sliding",) if slides else ("full",),
        window=own.size("sliding_window") if slides else 0,
        rope_theta=theta,
        rope=scaling,
        qkv_bias=bias,
        out_bias=bias,
        qk_norm="scaled",
        moe=experts,
    )


def deepseek_v3(fields: Fields) -> TransformerConfig:
    """DeepSeek V3 (DeepSeek-AI 2024): latent attention, sigmoid scores, groups, shared experts.

    Its extra layers that predict more than one token (`num_nextn_predict_layers`) are not read.
    """
    silu(fields)
    _training_only(fields)
    for name in ("aux_loss_alpha", "seq_aux", "ep_size", "num_nextn_predict_layers"):
        fields.take(name, None)
    fields.only("scoring_func", "sigmoid")
    fields.only("topk_method", "noaux_tc")
    fields.only("moe_layer_freq", 1)
    theta, scaling = rope_fields(fields, 10000.0)
    size = fields.size("qk_nope_head_dim", 128, most=1e5)
    # `head_dim` of the file, where it is there, is the rotated part again.
    shape = {**common(fields, head_dim=size), "head_dim": size}
    low = fields.nullable("q_lora_rank", 1536)  # null projects queries directly
    latent = MlaConfig(
        kv_rank=fields.size("kv_lora_rank", 512),
        query_rank=0
        if low is None
        else Fields({"q_lora_rank": low}, fields.where).size("q_lora_rank"),
        rope_dim=fields.size("qk_rope_head_dim", 64, most=1e5),
        value_dim=fields.size("v_head_dim", 128, most=1e5),
    )
    fields.only("qk_head_dim", size + latent.rope_dim)
    width, count = fields.size("moe_intermediate_size", 2048), _routed(fields)
    first = fields.take("first_k_dense_replace", 3)
    if type(first) is not int or first < 0:
        raise fields.error("first_k_dense_replace", "be a whole number", repr(first))
    experts = MoeConfig(
        experts=count,
        active=_active(fields, 8),
        ff=width,
        shared_ff=width * fields.size("n_shared_experts", 1, most=1e5),
        scores="sigmoid",
        normalise=fields.flag("norm_topk_prob", True),
        scale=float(fields.number("routed_scaling_factor", 2.5)),
        bias_correction=True,
        groups=fields.size("n_group", 8, most=1e5),
        active_groups=fields.size("topk_group", 4, most=1e5),
        first=first,
    )
    return TransformerConfig(
        **shape,
        rope_theta=theta,
        rope=scaling,
        rope_interleaved=fields.flag("rope_interleave", True),
        out_bias=fields.flag("attention_bias", False),
        moe=experts,
        mla=latent,
    )


def _routed(fields: Fields) -> int:
    """DeepSeek's experts, which newer files may name as the other families do too."""
    count = fields.size("n_routed_experts", 256, most=1e5)
    for name in ("num_local_experts", "num_experts"):
        fields.only(name, count)
    return count


def llama4(fields: Fields) -> TransformerConfig:
    """Llama 4, text (Meta 2025): chunked layers that turn, full layers without positions whose
    queries grow with the place, one expert a token beside a shared one."""
    silu(fields)
    _training_only(fields)
    theta, scaling = rope_fields(fields, 500000.0)
    bias, width = fields.flag("attention_bias", False), fields.size("intermediate_size", 8192)
    shape = common(fields, head_dim=128, kv_heads=8, norm_eps=1e-5, ff="intermediate_size_mlp")
    count = shape["layers"]
    step = fields.size("interleave_moe_layer_step", 1, most=1e5)
    sparse = _numbers(fields, "moe_layers", count)
    sparse = list(range(step - 1, count, step)) if sparse is None else sparse
    attended = _llama4_kinds(fields, count)
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
    experts = MoeConfig(
        experts=_count(fields, 16),
        active=_active(fields, 1),
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
        moe=experts,
    )


def _llama4_kinds(fields: Fields, count: int) -> tuple[str, ...]:
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


def _described(config: TransformerConfig, kind: str, architecture: str) -> dict[str, Any]:
    """Fields that all families write alike."""
    scaled = config.rope.original_length > 0
    length = {"max_position_embeddings": int(config.rope.original_length * config.rope.factor)}
    return {
        "architectures": [architecture],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "intermediate_size": config.ff,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied,
        **spelled_twice(config.rope_theta, config.rope),
        "num_experts_per_tok": config.moe.active,
        "dtype": config.param_dtype,
        **(length if scaled else {}),
    }


def describe_mixtral(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Mixtral."""
    return {
        **_described(config, "mixtral", "MixtralForCausalLM"),
        "head_dim": config.head_dim,
        "num_local_experts": config.moe.experts,
        "sliding_window": config.window or None,
    }


def describe_qwen3_moe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Qwen 3 MoE."""
    return {
        **_described(config, "qwen3_moe", "Qwen3MoeForCausalLM"),
        "head_dim": config.head_dim,
        "attention_bias": config.qkv_bias,
        "use_sliding_window": config.window > 0,
        "sliding_window": config.window or None,
        "num_experts": config.moe.experts,
        "moe_intermediate_size": config.moe.ff,
        "norm_topk_prob": config.moe.normalise,
        "decoder_sparse_step": config.moe.every,
        "mlp_only_layers": list(config.moe.dense),
    }


def describe_deepseek_v3(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a DeepSeek V3 without layers for further tokens."""
    latent, experts = config.mla, config.moe
    return {
        **_described(config, "deepseek_v3", "DeepseekV3ForCausalLM"),
        "attention_bias": config.out_bias,
        "rope_interleave": config.rope_interleaved,
        "kv_lora_rank": latent.kv_rank,
        "q_lora_rank": latent.query_rank or None,
        "qk_nope_head_dim": config.head_dim,
        "qk_rope_head_dim": latent.rope_dim,
        "v_head_dim": latent.value_dim,
        "n_routed_experts": experts.experts,
        "n_shared_experts": experts.shared_ff // experts.ff,
        "moe_intermediate_size": experts.ff,
        "n_group": experts.groups,
        "topk_group": experts.active_groups,
        "norm_topk_prob": experts.normalise,
        "routed_scaling_factor": experts.scale,
        "first_k_dense_replace": experts.first,
        "num_nextn_predict_layers": 0,
    }


def describe_llama4(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Llama 4's text model."""
    attended = config.kinds()
    sparse = [n for has, numbers in config.stacks() if has for n in numbers]
    masks = {"chunked": "chunked_attention"}
    return {
        **_described(config, "llama4_text", "Llama4ForCausalLM"),
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


FAMILIES: dict[str, names.Family] = {
    "mixtral": names.Family(
        config=mixtral,
        describe=describe_mixtral,
        sources=lambda config: names.sources(config, names_moe.mixtral_mixture),
    ),
    "qwen3_moe": names.Family(
        config=qwen3_moe,
        describe=describe_qwen3_moe,
        sources=lambda config: names.sources(config, names_moe.numbered_mixture),
    ),
    "deepseek_v3": names.Family(
        config=deepseek_v3,
        describe=describe_deepseek_v3,
        sources=lambda config: names.sources(
            config, names_moe.numbered_mixture, attend=names_moe.latent_attention
        ),
        # Layers behind the last one predict further tokens.
        unread=lambda config: (f"model.layers.{config.layers}.*",),
    ),
    "llama4_text": names.Family(
        config=llama4,
        describe=describe_llama4,
        sources=lambda config: names.sources(
            config, names_moe.llama4_mixture, dense=names_moe.llama4_mlp
        ),
    ),
}
