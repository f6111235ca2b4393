"""The live side of the comparison: an interpreter that has torch and transformers, and new models.

It is this one, or the one that ALIGNJAX_REFERENCE_PYTHON names (an environment without jax).
"""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np

from alignjax.models.checkpoints.families import COMPOSITES
from tests.commands import cli
from tests.models.families import gemma4_cases, lfm2_cases, live_delta, live_moe

NEEDED = ("torch", "transformers")
VARIABLE = "ALIGNJAX_REFERENCE_PYTHON"


@functools.cache
def interpreter() -> str | None:
    """The path of such an interpreter, or None."""
    named = os.environ.get(VARIABLE)
    if named:
        return named
    return sys.executable if all(map(importlib.util.find_spec, NEEDED)) else None


def run(jobs: list[list[Any]]) -> None:
    """Does these jobs of `reference.job` in one process there; its errors are ours."""
    python = interpreter()
    assert python is not None
    done = subprocess.run(
        [python, "-m", "tests.models.families.reference"],
        cwd=cli.ROOT,
        env={**os.environ, "PYTHONPATH": str(cli.ROOT)},
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def _parts(
    kind: str, rng: np.random.Generator, fields: dict[str, Any], rope: dict[str, Any]
) -> dict[str, Any]:
    """Fields of families whose heads turn in part."""
    whole = fields.get("head_dim") or fields["hidden_size"] // fields["num_attention_heads"]
    size = int(2 * rng.integers(1, whole // 2 + 1))
    part = {"partial_rotary_factor": (size + 0.25) / whole if size < whole else 1.0}
    if kind != "phi3":
        own = {"rope_parameters": {**rope, **part}}
        return own if kind == "glm4_moe" else {**own, "attention_bias": bool(rng.integers(2))}
    base: dict[str, Any] = {"rope_type": "default", "rope_theta": rope["rope_theta"], **part}
    if rng.integers(2):
        divisors = {n: list(1 + 3 * rng.random(size // 2)) for n in ("short_factor", "long_factor")}
        base |= {"rope_type": "longrope", **divisors}
    return {
        "rope_parameters": base,
        "original_max_position_embeddings": int(rng.integers(6, 25)),
        "sliding_window": int(rng.integers(1, 12)) if rng.integers(2) else None,
    }


SEEING = {
    "hidden_size": 8,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
VISION = {
    "gemma3": {"model_type": "siglip_vision_model"},
    "llama4": {"vision_output_dim": 8, "projector_input_dim": 8, "projector_output_dim": 8},
    "mistral3": {"model_type": "pixtral", "head_dim": 4},
}


def random_fields(kind: str, seed: int) -> dict[str, Any]:
    """Fields of a random model of a family: odd head counts, biases, windows, experts, ties."""
    if kind in live_delta.COMPOSITES:
        text = COMPOSITES[kind].text
        return live_delta.seeing({**random_fields(text, seed), "model_type": text})
    if kind in gemma4_cases.COMPOSITES:
        text = COMPOSITES[kind].text
        return gemma4_cases.seeing({**random_fields(text, seed), "model_type": text})
    if kind in VISION:
        text = COMPOSITES[kind].text
        fields = random_fields(text, seed)
        return {
            "text_config": {**fields, "model_type": text},
            "vision_config": {**SEEING, **VISION[kind]},
            "tie_word_embeddings": fields["tie_word_embeddings"],
            **({"mm_tokens_per_image": 4} if kind == "gemma3" else {}),
        }
    rng = np.random.default_rng(seed)

    def either(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    kv, group, layers = either(1, 2, 3, 5), either(1, 2, 3), int(rng.integers(1, 6))
    fields = {
        "vocab_size": int(rng.integers(30, 90)),
        "num_hidden_layers": layers,
        "num_attention_heads": kv * group,
        "num_key_value_heads": kv,
        "head_dim": int(2 * rng.integers(2, 7)),
        "hidden_size": int(kv * group * 2 * rng.integers(1, 5)),
        "intermediate_size": int(rng.integers(5, 60)),
        "max_position_embeddings": 64,
        "tie_word_embeddings": either(True, False),
        "rms_norm_eps": either(1e-6, 1e-5, 1e-3),
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if kind in ("smollm3", "qwen2", "olmo2", "olmo3", "granite", "phi3"):
        fields["hidden_size"] = kv * group * fields.pop("head_dim")  # these take no other
    # Products keep their size whatever the width: else rounding grows from layer to layer, to 5e-5
    # of either side against float64.
    fields["initializer_range"] = 1.2 * fields["hidden_size"] ** -0.5
    theta = float(rng.integers(20, 3000))
    scaled = either(
        {"rope_type": "default"},
        {"rope_type": "linear", "factor": 3.0},
        {
            "rope_type": "llama3",
            "factor": 6.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 3.0,
            "original_max_position_embeddings": 24,
        },
        {
            "rope_type": "yarn",
            "factor": 3.0,
            "original_max_position_embeddings": 48,
            "beta_fast": 3.0,
            "beta_slow": 0.3,
            "truncate": either(True, False),
        },
    )
    window = {"sliding_window": int(rng.integers(1, 12))}
    mixed = [either("full_attention", "sliding_attention") for _ in range(layers)]
    own: dict[str, Any] = {"rope_parameters": {**scaled, "rope_theta": theta}}
    if kind in ("llama", "smollm3", "qwen3", "gemma2", "gemma3_text", "olmo2", "olmo3", "granite"):
        own["attention_bias"] = either(True, False)
    if kind in ("llama", "smollm3", "granite"):
        own["mlp_bias"] = either(True, False)
    if kind == "granite":
        own |= {
            "embedding_multiplier": float(rng.uniform(0.5, 4)),
            "residual_multiplier": float(rng.uniform(0.2, 1)),
            "attention_multiplier": float(rng.uniform(0.1, 1)),
            "logits_scaling": float(rng.uniform(0.5, 4)),
        }
    if kind == "smollm3":
        own["no_rope_layers"] = [int(rng.integers(2)) for _ in range(layers)]
    if kind == "mistral":
        own |= either(window, {"sliding_window": None})
    if kind in ("qwen2", "qwen3"):
        own |= either({}, {**window, "use_sliding_window": True, "layer_types": mixed})
    if kind in live_moe.KINDS:
        if kind == "deepseek_v3" and scaled["rope_type"] == "yarn":
            own["rope_parameters"] |= live_moe.magnitudes(rng)
        own |= live_moe.experts_of(kind, rng, fields)
    if kind in live_delta.KINDS:
        own |= live_delta.fields_of(kind, rng, fields, own["rope_parameters"])
    if kind in gemma4_cases.KINDS:
        own |= gemma4_cases.fields_of(rng, fields, own["rope_parameters"])
    if kind in lfm2_cases.KINDS:
        own |= lfm2_cases.fields_of(rng, fields)
    if kind in ("gemma2", "gemma3_text"):
        own |= {**window, "layer_types": mixed, "query_pre_attn_scalar": int(rng.integers(2, 30))}
        own["final_logit_softcapping"] = either(None, 4.0)
    if kind == "gemma2":
        own["attn_logit_softcapping"] = either(None, 3.0)
    if kind in ("phi3", "glm4", "glm4_moe"):
        own |= _parts(kind, rng, fields, own["rope_parameters"])
    if kind == "llama" and either(True, False):
        own["rope_parameters"] = {"rope_type": "dynamic", "factor": 2.5, "rope_theta": theta}
        fields["max_position_embeddings"] = int(rng.integers(6, 25))
    if kind == "olmo3":
        own |= {**window, "layer_types": mixed}
        scaled |= {"truncate": True} if "truncate" in scaled else {}  # it takes no other
        own["rope_parameters"] = {
            "full_attention": {**scaled, "rope_theta": theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
        }
    if kind == "gemma3_text":
        scaled = own["rope_parameters"]
        scaled |= {"truncate": True} if "truncate" in scaled else {}  # it takes no other
        local = {"rope_type": "default", "rope_theta": 30.0}
        own["rope_parameters"] = {
            "full_attention": own["rope_parameters"],
            "sliding_attention": local,
        }
    return {**fields, **own}
