"""Qwen 3.5 with experts, text."""

from typing import Any

from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.families import composite, experts, opened, qwen3_5, qwen3_next
from alignjax.models.checkpoints.hf_config import Fields
from alignjax.models.config import MoeConfig, TransformerConfig

WIDTH = "moe_intermediate_size"


def config(fields: Fields) -> TransformerConfig:
    """Qwen 3.5 with experts in every layer (Qwen 2026), beside a shared one with a gate."""
    experts.training_only(fields)
    fields.take("intermediate_size", None)  # of dense layers, which it does not have
    own = qwen3_next.mixers(fields, kv_heads=2, ff=WIDTH, seen=True)
    routed = MoeConfig(
        experts=experts.count(fields, 256),
        active=experts.active(fields, 8),
        ff=own["ff"],
        **qwen3_next.shared(fields),
    )
    return TransformerConfig(**own, moe=routed)


def describe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Qwen 3.5's text model with experts."""
    fields = qwen3_next.described(config, "qwen3_5_moe_text", "Qwen3_5MoeForCausalLM")
    del fields["intermediate_size"]
    return {**fields, **qwen3_next.described_experts(config)}


FAMILY = names.Family(
    config=config,
    describe=describe,
    sources=lambda config: names.sources(config, qwen3_next.mixture, mixer=qwen3_5.delta),
    opened=opened.apart,
)

# Of text and images, as published.
COMPOSITE = composite.Composite(
    text="qwen3_5_moe_text", architecture="Qwen3_5MoeForCausalLM", fields=qwen3_5.IDS
)
