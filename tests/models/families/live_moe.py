"""New configurations of families with experts, for the live comparison."""

from typing import Any

import numpy as np

KINDS = ("mixtral", "qwen3_moe", "deepseek_v3", "llama4_text", "gpt_oss", "glm4_moe")


def experts_of(kind: str, rng: np.random.Generator, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a family beside those that all share, which may be changed too."""

    def either(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    layers = fields["num_hidden_layers"]
    count, window = int(rng.integers(2, 8)), int(rng.integers(1, 12))
    small = int(rng.integers(3, 20))
    active = either(1, min(2, count), int(rng.integers(1, count + 1)), count)
    if kind == "mixtral":
        return {
            "num_local_experts": count,
            "num_experts_per_tok": active,
            "sliding_window": either(None, window),
        }
    if kind == "qwen3_moe":
        return {
            "num_experts": count,
            "num_experts_per_tok": active,
            "moe_intermediate_size": small,
            "norm_topk_prob": either(True, False),
            "decoder_sparse_step": either(1, 2),
            "mlp_only_layers": either(None, [0]),
            "attention_bias": either(True, False),
            **either({}, {"use_sliding_window": True, "sliding_window": window}),
        }
    if kind == "gpt_oss":
        mixed = [either("full_attention", "sliding_attention") for _ in range(layers)]
        return {
            "num_local_experts": count,
            "num_experts_per_tok": active,
            "sliding_window": window,
            "attention_bias": either(True, False),
            "swiglu_limit": float(rng.uniform(0.2, 3)),
            "swiglu_alpha": float(rng.uniform(0.5, 2)),
            **either({}, {"layer_types": mixed}),
        }
    if kind == "llama4_text":
        return {
            **_llama4_layers(either, rng, fields["num_hidden_layers"]),
            "num_local_experts": count,
            "num_experts_per_tok": active,
            "intermediate_size_mlp": small,
            "attention_chunk_size": window,
            "use_qk_norm": either(True, False),
            "attn_temperature_tuning": either(True, False),
            "floor_scale": int(rng.integers(1, 6)),
            "attn_scale": float(rng.uniform(0.05, 0.5)),
            "attention_bias": either(True, False),
        }
    if kind == "glm4_moe":
        size, deep = fields["num_key_value_heads"], {**fields}
        latent = {"rank", "rope", "nope"}  # words of fields that it does not share
        own = _deepseek(either, rng, deep)
        routed = {n: x for n, x in own.items() if not {*n.split("_")} & latent}
        routed |= {"num_key_value_heads": size, "use_qk_norm": either(True, False)}
        routed |= {"num_nextn_predict_layers": 0, "moe_intermediate_size": small}
        return {n: x for n, x in routed.items() if n != "v_head_dim"}
    return _deepseek(either, rng, fields) | {"moe_intermediate_size": small}


def _llama4_layers(either: Any, rng: np.random.Generator, layers: int) -> dict[str, Any]:
    turns = [int(rng.integers(2)) for _ in range(layers)]
    return {
        **either({"no_rope_layers": turns}, {"no_rope_layers": [0] * layers}, {}),
        **either(
            {"interleave_moe_layer_step": 1},
            {"interleave_moe_layer_step": 2},
            {"moe_layers": [int(rng.integers(layers))]},
        ),
    }


def _deepseek(either: Any, rng: np.random.Generator, fields: dict[str, Any]) -> dict[str, Any]:
    groups, each = either(1, 2, 3), int(rng.integers(2, 4))
    kept = int(rng.integers(1, groups + 1))
    fields["num_key_value_heads"] = fields["num_attention_heads"]
    fields.pop("head_dim")
    return {
        "n_routed_experts": groups * each,
        "n_group": groups,
        "topk_group": kept,
        "num_experts_per_tok": either(1, kept * each, int(rng.integers(1, kept * each + 1))),
        "n_shared_experts": either(1, 2),
        "norm_topk_prob": either(True, False),
        "routed_scaling_factor": float(rng.uniform(0.5, 3)),
        "first_k_dense_replace": int(rng.integers(0, fields["num_hidden_layers"] + 1)),
        "q_lora_rank": either(None, int(rng.integers(3, 14))),
        "kv_lora_rank": int(rng.integers(3, 14)),
        "qk_rope_head_dim": int(2 * rng.integers(1, 5)),
        "qk_nope_head_dim": int(rng.integers(1, 9)),
        "v_head_dim": int(rng.integers(1, 9)),
        "rope_interleave": either(True, False),
        "attention_bias": either(True, False),
    }


def magnitudes(rng: np.random.Generator) -> dict[str, float]:
    """DeepSeek's own fields of YaRN."""
    return [{}, {"mscale": 1.0, "mscale_all_dim": 0.8}, {"mscale_all_dim": 0.6}][rng.integers(3)]
