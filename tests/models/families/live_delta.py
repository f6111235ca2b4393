"""New configurations of families with the gated delta rule, for the live comparison."""

from typing import Any

import numpy as np

KINDS = ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")
COMPOSITES = ("qwen3_5", "qwen3_5_moe")


def seeing(text: dict[str, Any]) -> dict[str, Any]:
    """Fields of a model that sees, with this one of text."""
    vision = {
        "depth": 1,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_heads": 2,
        "patch_size": 4,
        "out_hidden_size": text["hidden_size"],
        "num_position_embeddings": 16,
    }
    ties = text["tie_word_embeddings"]
    return {"text_config": text, "vision_config": vision, "tie_word_embeddings": ties}


def fields_of(
    kind: str, rng: np.random.Generator, fields: dict[str, Any], rope: dict[str, Any]
) -> dict[str, Any]:
    """The fields of a family beside those that all share, which may be changed too."""

    def either(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    size, keys = fields["head_dim"], int(rng.integers(1, 4))
    turning = int(2 * rng.integers(1, size // 2 + 1))
    kinds = ["linear_attention", "full_attention"]
    # A norm of what is read of a state near 0 grows rounding, of either side to 5e-5 against
    # float64.
    fields["rms_norm_eps"] = either(1e-4, 1e-3)
    own: dict[str, Any] = {
        "rope_parameters": {**rope, "partial_rotary_factor": min((turning + 0.01) / size, 1.0)},
        "attention_bias": either(True, False),
        "linear_num_key_heads": keys,
        "linear_num_value_heads": keys * int(rng.integers(1, 4)),
        "linear_key_head_dim": int(rng.integers(1, 9)),
        "linear_value_head_dim": int(rng.integers(1, 9)),
        "linear_conv_kernel_dim": int(rng.integers(2, 7)),
        **either({}, {"layer_types": [either(*kinds) for _ in range(fields["num_hidden_layers"])]}),
    }
    if kind == "qwen3_5_text":
        return own
    count = int(rng.integers(2, 8))
    own |= {
        "num_experts": count,
        "num_experts_per_tok": int(rng.integers(1, count + 1)),
        "moe_intermediate_size": int(rng.integers(3, 20)),
        "shared_expert_intermediate_size": int(rng.integers(3, 20)),
    }
    if kind == "qwen3_5_moe_text":
        fields.pop("intermediate_size")
        return own
    return own | {
        "norm_topk_prob": either(True, False),
        "decoder_sparse_step": either(1, 2),
        "mlp_only_layers": either(None, [0]),
    }
