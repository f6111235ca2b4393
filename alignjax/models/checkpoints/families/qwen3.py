"""Qwen 3."""

from typing import Any

from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.families import common, qwen2
from alignjax.models.checkpoints.hf_config import Fields
from alignjax.models.config import TransformerConfig


def config(fields: Fields) -> TransformerConfig:
    """Qwen 3 (Yang et al. 2025): norms of queries and keys."""
    bias = fields.flag("attention_bias", False)
    return qwen2.shared(fields, qk_norm="scaled", qkv_bias=bias, out_bias=bias, head_dim=128)


def describe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Qwen 3."""
    return {
        **common.described(config, "qwen3", "Qwen3ForCausalLM"),
        **qwen2.described_window(config),
        "attention_bias": config.qkv_bias,
    }


FAMILY = names.Family(
    config=config,
    describe=describe,
    sources=names.sources,
)
