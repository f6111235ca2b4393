"""Granite 3."""

import dataclasses
from typing import Any

from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.families import llama
from alignjax.models.checkpoints.hf_config import Fields
from alignjax.models.config import TransformerConfig


def config(fields: Fields) -> TransformerConfig:
    """Granite 3 (Granite Team 2024): a Llama whose embedding, scores, branches and logits are
    multiplied by constants."""
    wide, deep, score, divisor = (
        float(fields.number(name, 1.0))
        for name in (
            "embedding_multiplier",
            "residual_multiplier",
            "attention_multiplier",
            "logits_scaling",
        )
    )
    return dataclasses.replace(
        llama.config(fields),
        embed_scale=wide,
        branch_scale=deep,
        query_scale=score,
        logit_scale=1.0 / divisor,
    )


def describe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Granite."""
    return {
        **llama.describe(config),
        "model_type": "granite",
        "architectures": ["GraniteForCausalLM"],
        "embedding_multiplier": config.embed_scale,
        "residual_multiplier": config.branch_scale,
        "attention_multiplier": config.query_scale or config.head_dim**-0.5,
        "logits_scaling": 1.0 / config.logit_scale,
    }


FAMILY = names.Family(
    config=config,
    describe=describe,
    sources=names.sources,
)
