"""Configurations of Gemma 4: small ones that are recorded, and new ones for the live comparison."""

from typing import Any

import numpy as np

COMPOSITES = ("gemma4",)
KINDS = ("gemma4_text",)
BASE = {
    # Norms of small values grow rounding, of either side to 2e-4 with an epsilon of 1e-6.
    **{"rms_norm_eps": 1e-3, "initializer_range": 0.2},
    "vocab_size": 60,
    "vocab_size_per_layer_input": 60,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
    "global_head_dim": 12,
    "sliding_window": 5,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
S, F = "sliding_attention", "full_attention"
# The last layers see keys of earlier ones, and have wider MLPs.
LENT = {
    **BASE,
    "num_hidden_layers": 7,
    "layer_types": [S, S, F, S, F, S, F],
    "num_kv_shared_layers": 3,
    "use_double_wide_mlp": True,
    "hidden_size_per_layer_input": 8,
    "final_logit_softcapping": 4.0,
    "rope_parameters": {
        S: {"rope_type": "default", "rope_theta": 50.0},
        F: {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 1000.0},
    },
}
# Keys of full layers are values too, on fewer heads; no embeddings by layer.
SINGLE = {
    **BASE,
    "vocab_size": 64,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_global_key_value_heads": 2,
    "attention_k_eq_v": True,
    "num_hidden_layers": 6,
    "hidden_size_per_layer_input": 0,
    "attention_bias": True,
    "tie_word_embeddings": False,
}
# Experts beside the dense MLP.
ROUTED = {
    **{k: v for k, v in SINGLE.items() if k not in ("attention_bias", "tie_word_embeddings")},
    "num_hidden_layers": 3,
    "layer_types": [S, S, F],
    "enable_moe_block": True,
    "num_experts": 5,
    "top_k_experts": 2,
    "moe_intermediate_size": 10,
}
SEEING = {
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "patch_size": 4,
    "position_embedding_size": 16,
}
HEARING = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "subsampling_conv_channels": [4, 4],
    "conv_kernel_size": 3,
    "output_proj_dims": 8,
}
PLAIN = {"num_hidden_layers": 3, "num_kv_shared_layers": 0, "use_double_wide_mlp": False}
CASES = {
    "gemma4": ("gemma4_text", LENT),
    "gemma4-single": ("gemma4_text", SINGLE),
    "gemma4-experts": ("gemma4_text", ROUTED),
    "gemma4-images": (
        "gemma4",
        {
            "text_config": {**LENT, "layer_types": [S, F, F], **PLAIN},
            "vision_config": SEEING,
            "audio_config": HEARING,
        },
    ),
}


def seeing(text: dict[str, Any]) -> dict[str, Any]:
    """Fields of a model that sees and hears, with this one of text."""
    ties = text["tie_word_embeddings"]
    parts = {"vision_config": SEEING, "audio_config": HEARING}
    return {"text_config": text, **parts, "tie_word_embeddings": ties}


def fields_of(
    rng: np.random.Generator, fields: dict[str, Any], rope: dict[str, Any]
) -> dict[str, Any]:
    """The fields of a random model beside those that all families share, some of them changed."""

    def either(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    # Norms of small values and of their gradients grow rounding: see live_delta.
    fields["rms_norm_eps"] = either(1e-4, 1e-3)
    count = fields["num_hidden_layers"] = int(rng.integers(2, 6))
    kinds = [*(either(S, F) for _ in range(count - 1)), F]
    shared = int(rng.integers(0, count))
    while {*kinds[: count - shared]} != {*kinds}:  # each kind needs a layer with keys
        shared -= 1
    heads, single = fields["num_attention_heads"], either(True, False)
    groups = [n for n in range(1, heads + 1) if heads % n == 0]
    if rope["rope_type"] in ("default", "yarn"):  # which takes no bounds in parts of a dimension
        rope = {"rope_type": "proportional", "rope_theta": rope["rope_theta"]}
        rope |= {"partial_rotary_factor": either(0.3, 0.5, 1.0), "factor": either(1.0, 4.0)}
    inputs = int(rng.integers(2, 9))  # which transformers 5.23 reads wherever keys are shared
    experts = int(rng.integers(2, 8))
    routed = {
        "enable_moe_block": True,
        "num_experts": experts,
        "top_k_experts": int(rng.integers(1, experts + 1)),
        "moe_intermediate_size": int(rng.integers(3, 20)),
    }
    return {
        **either({}, routed),
        "attention_bias": either(True, False),
        "layer_types": kinds,
        "sliding_window": int(rng.integers(1, 12)),
        "global_head_dim": int(2 * rng.integers(2, 9)),
        "num_global_key_value_heads": either(*groups) if single else None,
        "attention_k_eq_v": single,
        "num_kv_shared_layers": shared,
        "use_double_wide_mlp": either(True, False),
        "hidden_size_per_layer_input": inputs if shared else either(0, inputs),
        "vocab_size_per_layer_input": fields["vocab_size"],
        "final_logit_softcapping": either(None, 4.0),
        "rope_parameters": {S: {"rope_type": "default", "rope_theta": 30.0}, F: rope},
    }
