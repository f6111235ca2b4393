"""Gemma 3, text."""

from typing import Any

from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.families import common, composite, gemma2
from alignjax.models.checkpoints.hf_config import Fields
from alignjax.models.config import TransformerConfig


def config(fields: Fields) -> TransformerConfig:
    """Gemma 3, text (Gemma Team 2025): five windows to one full layer, norms of queries and keys.

    Sliding layers turn with a base of their own and are never scaled. transformers has a field for
    a soft cap of the scores and does not apply it: such a model is refused.
    """
    fields.only("attn_logit_softcapping", 0, 0.0)
    shape = common.shape(fields, head_dim=256, kv_heads=4, tied=True)
    every = fields.size("sliding_window_pattern", 6)
    fields.take("_sliding_window_pattern", None)  # transformers writes it and reads the other
    default = ["full" if (n + 1) % every == 0 else "sliding" for n in range(shape["layers"])]
    local, theta, scaling = common.rope_by_kind(fields, 1000000.0, 10000.0)
    return TransformerConfig(
        **gemma2.shared(fields, default, shape),
        rope_theta=theta,
        rope=scaling,
        local_rope_theta=local,
        qk_norm="scaled",
        logit_softcap=gemma2.cap(fields, "final_logit_softcapping", None),
    )


def describe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Gemma 3's text model."""
    fields = gemma2.describe(config)
    fields |= {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"]}
    local = config.local_rope_theta or config.rope_theta
    return {**fields, "rope_local_base_freq": local, **common.described_by_kind(config)}


FAMILY = names.Family(
    config=config,
    describe=describe,
    sources=names.sources,
)

# Of text and images, from 4B on.
COMPOSITE = composite.Composite(
    text="gemma3_text",
    architecture="Gemma3ForCausalLM",
    fields=("boi_token_index", "eoi_token_index", "image_token_index", "mm_tokens_per_image"),
    # Published files leave out what the smallest of them has too.
    defaults={
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
    },
)
