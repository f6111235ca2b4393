"""Configurations of LFM2: small ones that are recorded, and new ones for the live comparison."""

from typing import Any

import numpy as np

KINDS = ("lfm2",)
BASE = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 64,
    "full_attn_idxs": [1, 4],
    "block_multiple_of": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CASES = {
    "lfm2": ("lfm2", BASE),
    "lfm2-biases": (
        "lfm2",
        {
            **BASE,
            "vocab_size": 64,
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_hidden_layers": 3,
            "full_attn_idxs": [2],
            "conv_L_cache": 4,
            "conv_bias": True,
            "block_auto_adjust_ff_dim": False,
            "tie_word_embeddings": False,
        },
    ),
}


def fields_of(rng: np.random.Generator, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a random model beside those that all families share, some of them changed."""
    count = fields["num_hidden_layers"] = int(rng.integers(2, 7))
    kinds = ["conv" if rng.integers(3) else "full_attention" for _ in range(count)]
    first = int(rng.integers(2))  # one of each kind: without a convolution it is a Qwen 3
    kinds[first], kinds[1 - first] = "full_attention", "conv"
    fields["norm_eps"] = fields.pop("rms_norm_eps")
    return {
        "layer_types": kinds,
        "conv_L_cache": int(rng.integers(1, 6)),
        "conv_bias": bool(rng.integers(2)),
        "block_auto_adjust_ff_dim": bool(rng.integers(2)),
        "block_multiple_of": int(rng.integers(1, 20)),
        "block_ffn_dim_multiplier": float(rng.uniform(0.5, 2)),
    }
