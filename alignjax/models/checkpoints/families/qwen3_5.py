"""Qwen 3.5, dense, text."""

from typing import Any

from alignjax.models import gated_delta
from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.families import composite, opened, qwen3_next
from alignjax.models.checkpoints.hf_config import Fields
from alignjax.models.checkpoints.names import Layer
from alignjax.models.config import TransformerConfig

# Of images and videos, in the `config.json` of a model that sees them.
IDS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


def config(fields: Fields) -> TransformerConfig:
    """Qwen 3.5 (Qwen 2026): Qwen 3 Next without experts."""
    return TransformerConfig(**qwen3_next.mixers(fields, kv_heads=4, seen=True))


def describe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Qwen 3.5's text model."""
    return qwen3_next.described(config, "qwen3_5_text", "Qwen3_5ForCausalLM")


def delta(config: TransformerConfig, source: Layer) -> gated_delta.Delta:
    """Sources of the gated delta rule: all queries, keys and values are rows of one tensor."""
    inside, rows = "linear_attn.in_proj_", qwen3_next.rows_of(config)
    maps = {
        name: source(f"{inside}qkv.weight", "(k h) d -> d k h", rows=at)
        for name, at in rows.items()
    }
    parts = {"out_gate": "z", "write": "b", "decay": "a"}
    maps |= {
        name: source(f"{inside}{part}.weight", "(k h) d -> d k h") for name, part in parts.items()
    }
    return qwen3_next.mixer(config, source, maps)


FAMILY = names.Family(
    config=config,
    describe=describe,
    sources=lambda config: names.sources(config, mixer=delta),
    opened=opened.further,
)

# Of text and images, as published.
COMPOSITE = composite.Composite(text="qwen3_5_text", architecture="Qwen3_5ForCausalLM", fields=IDS)
