"""Small random models of each dense family, by transformers' own classes, and what they compute.

Run with torch 2.13.0 and transformers 5.23.0:
  python -m tests.models.families.record_dense [CASE ...]
"""

import pathlib
import sys

from tests.models.families import gemma4_cases, lfm2_cases, reference

GOLDENS = pathlib.Path(__file__).parent / "goldens"
BARE = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SMALL = {**BARE, "head_dim": 8}
EVEN = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 500.0,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    # A ramp from dimension 0.8 to 2.6 of four.
    "original_max_position_embeddings": 64,
    "beta_fast": 4.0,
    "beta_slow": 0.5,
    "truncate": False,
    "rope_theta": 100.0,
}
WINDOWS = {"sliding_window": 5, "num_hidden_layers": 3}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
CASES = {
    "llama": ("llama", {**BARE, "num_hidden_layers": 3}),
    "llama-biases-llama3": (
        "llama",
        {
            **SMALL,
            **EVEN,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "rope_parameters": LLAMA3,
        },
    ),
    "llama-linear": (
        "llama",
        {
            **SMALL,
            "num_key_value_heads": 6,
            "rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 1000.0},
        },
    ),
    "llama-yarn": ("llama", {**SMALL, **EVEN, "num_key_value_heads": 1, "rope_parameters": YARN}),
    "smollm3": (
        "smollm3",
        {**BARE, "num_hidden_layers": 5, "no_rope_layers": [1, 0, 1, 1, 0]},
    ),
    "mistral-window": ("mistral", {**SMALL, **EVEN, **WINDOWS, "head_dim": 6}),
    "mistral": ("mistral", {**SMALL, "sliding_window": None, "tie_word_embeddings": True}),
    "qwen2": ("qwen2", {**BARE, **EVEN}),
    "qwen2-sliding": (
        "qwen2",
        {
            **SMALL,
            **WINDOWS,
            "use_sliding_window": True,
            "max_window_layers": 1,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3": ("qwen3", {**SMALL, **EVEN, "head_dim": 12, "attention_bias": True}),
    "qwen3-mixed": (
        "qwen3",
        {
            **SMALL,
            **WINDOWS,
            "use_sliding_window": True,
            "layer_types": MIXED,
            "tie_word_embeddings": True,
        },
    ),
    "gemma2": (
        "gemma2",
        {
            **SMALL,
            **WINDOWS,
            "query_pre_attn_scalar": 7,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma2-untied": (
        "gemma2",
        {
            **SMALL,
            **EVEN,
            "attention_bias": True,
            "tie_word_embeddings": False,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
        },
    ),
    "gemma3": (
        "gemma3_text",
        {
            **SMALL,
            **WINDOWS,
            "layer_types": MIXED,
            "query_pre_attn_scalar": 9,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 2000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            },
        },
    ),
    "gemma3-pattern": (
        "gemma3_text",
        {**SMALL, **EVEN, "num_hidden_layers": 7, "head_dim": 4, "intermediate_size": 16},
    ),
}
CASES |= {
    "granite": (
        "granite",
        {
            **BARE,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.4,
            "attention_multiplier": 0.3,
            "logits_scaling": 0.7,
        },
    ),
    "granite-tied": (
        "granite",
        {**BARE, **EVEN, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "olmo2": ("olmo2", {**BARE, "attention_bias": True, "rope_parameters": YARN}),
    "olmo2-tied": ("olmo2", {**BARE, **EVEN, "tie_word_embeddings": True}),
    "olmo3": (
        "olmo3",
        {
            **BARE,
            **WINDOWS,
            "layer_types": MIXED,
            "rope_parameters": {
                "full_attention": {**YARN, "truncate": True},
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            },
        },
    ),
}
# Of text and images. The wide model is small: none of its tensors is read.
SEEING = {
    "hidden_size": 8,
    "intermediate_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
CASES |= {
    "gemma3-images": (
        "gemma3",
        {
            "text_config": {**SMALL, **WINDOWS, "layer_types": MIXED, "query_pre_attn_scalar": 9},
            "vision_config": {**SEEING, "model_type": "siglip_vision_model"},
            "mm_tokens_per_image": 4,
        },
    ),
    "mistral3-images": (
        "mistral3",
        {
            "text_config": {**SMALL, **EVEN, "model_type": "mistral", "sliding_window": None},
            "vision_config": {**SEEING, "model_type": "pixtral", "head_dim": 4},
            "tie_word_embeddings": False,
        },
    ),
    "llama4-images": (
        "llama4",
        {
            "text_config": {
                **SMALL,
                "num_hidden_layers": 4,
                "intermediate_size": 16,
                "intermediate_size_mlp": 18,
                "num_local_experts": 3,
                "interleave_moe_layer_step": 2,
                "attention_chunk_size": 4,
                "floor_scale": 3,
            },
            "vision_config": {
                **SEEING,
                "intermediate_size": 32,
                "vision_output_dim": 8,
                "projector_input_dim": 8,
                "projector_output_dim": 8,
            },
        },
    ),
}
# What is read of a state may be near 0, and its norm then grows rounding, of either side to 5e-5
# against float64: a larger epsilon and a smaller spread keep that away.
STEADY = {"rms_norm_eps": 1e-3, "initializer_range": 0.2}
RULE = {
    **STEADY,
    "num_hidden_layers": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 6,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 5,
}
ODD = {
    "layer_types": ["full_attention", "linear_attention", "linear_attention"],
    "num_hidden_layers": 3,
    "linear_num_key_heads": 3,
    "linear_num_value_heads": 3,
    "linear_key_head_dim": 5,
    "linear_value_head_dim": 7,
    "linear_conv_kernel_dim": 3,
}
HALF = {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.5}
ROUTED = {
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 10,
    "shared_expert_intermediate_size": 12,
}
SIGHTED = {
    "depth": 1,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_heads": 2,
    "patch_size": 4,
    "out_hidden_size": 32,
    "num_position_embeddings": 16,
}
CASES |= {
    "qwen3_next": ("qwen3_next", {**SMALL, **EVEN, **RULE, **ROUTED, "attention_bias": True}),
    "qwen3_next-odd": (
        "qwen3_next",
        {
            **SMALL,
            **ODD,
            **ROUTED,
            "rope_parameters": HALF,
            "mlp_only_layers": [1],
            "norm_topk_prob": False,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3_5": ("qwen3_5_text", {**SMALL, **EVEN, **RULE}),
    "qwen3_5-odd": (
        "qwen3_5_text",
        {
            **SMALL,
            **ODD,
            "attention_bias": True,
            "tie_word_embeddings": True,
            "rope_parameters": {**YARN, "partial_rotary_factor": 0.75},
        },
    ),
    "qwen3_5_moe": (
        "qwen3_5_moe_text",
        {k: v for k, v in {**SMALL, **ODD, **ROUTED}.items() if k != "intermediate_size"},
    ),
    "qwen3_5-images": (
        "qwen3_5",
        {"text_config": {**SMALL, **EVEN, **RULE}, "vision_config": SIGHTED},
    ),
    "qwen3_5_moe-images": (
        "qwen3_5_moe",
        {
            "text_config": {**SMALL, **EVEN, **RULE, **ROUTED},
            "vision_config": SIGHTED,
        },
    ),
}
DIVISORS = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.1, 1.3],
    "long_factor": [1.2, 2.5, 5.0],
}
CASES |= {
    # Its prompt and one row are longer than the original length.
    "llama-dynamic": (
        "llama",
        {
            **SMALL,
            "max_position_embeddings": 12,
            "rope_parameters": {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 100.0},
        },
    ),
    "phi3-longrope": (
        "phi3",
        {
            **BARE,
            **EVEN,
            "original_max_position_embeddings": 12,
            "rope_parameters": DIVISORS,
        },
    ),
    "phi3": (
        "phi3",
        {
            **BARE,
            **WINDOWS,
            "hidden_size": 48,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 100.0,
                "partial_rotary_factor": 0.5,
            },
        },
    ),
    "glm4": ("glm4", {**SMALL, "attention_bias": True, "rms_norm_eps": 1e-5}),
    "glm4-tied": (
        "glm4",
        {
            **SMALL,
            **EVEN,
            "head_dim": 6,
            "attention_bias": False,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "linear",
                "factor": 2.0,
                "rope_theta": 100.0,
                "partial_rotary_factor": 0.7,
            },
        },
    ),
}
CASES |= {**gemma4_cases.CASES, **lfm2_cases.CASES}
# Families whose sequence-classification folder is kept too, as transformers writes it.
REWARDS = ("llama", "gemma3")
# Without a class for sequence classification, or with one that adds nothing to its neighbours'.
UNSCORED = ("granite", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "gemma4_text", "lfm2")


def main(*names: str) -> None:
    for seed, (name, (kind, fields)) in enumerate(CASES.items()):
        if names and name not in names:
            continue
        model = reference.make(kind, fields, seed)
        folder = GOLDENS / name
        reference.record(model, folder, seed)
        apart = reference.turned(model.config.get_text_config())  # rows of other lengths turn alike
        if kind not in (*reference.COMPOSITES, *UNSCORED) and not apart:
            scored = reference.scored(model, seed)
            reference.record_scores(
                scored, folder, seed, GOLDENS / f"{name}-reward" if name in REWARDS else None
            )
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{name}: {size // 1000} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
