"""Gemma 3, text."""

from typing import Any

from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.families import common, gemma2
from alignjax.models.checkpoints.hf_config import Fields, rope_fields, table
from alignjax.models.config import TransformerConfig


def config(fields: Fields) -> TransformerConfig:
    """Gemma 3, text (Gemma Team 2025): five windows to one full layer, norms of queries and keys.

    Sliding layers turn with a base of their own and are never scaled. transformers has fields for
    a soft cap of the scores and for YaRN's `truncate` and does not apply them: such a model is
    refused.
    """
    fields.only("attn_logit_softcapping", 0, 0.0)
    shape = common.shape(fields, head_dim=256, kv_heads=4, tied=True)
    every = fields.size("sliding_window_pattern", 6)
    fields.take("_sliding_window_pattern", None)  # transformers writes it and reads the other
    default = ["full" if (n + 1) % every == 0 else "sliding" for n in range(shape["layers"])]
    local, theta, scaling = _rope(fields)
    if not scaling.truncate:
        raise fields.error("rope_parameters.truncate", "be true for Gemma 3", "false")
    return TransformerConfig(
        **gemma2.shared(fields, default, shape),
        rope_theta=theta,
        rope=scaling,
        local_rope_theta=local,
        qk_norm="scaled",
        logit_softcap=gemma2.cap(fields, "final_logit_softcapping", None),
    )


def _rope(fields: Fields) -> tuple[float, float, Any]:
    """(base of sliding layers, base of full layers, scaling of full layers)."""
    where = f"{fields.where}, rope_parameters"
    by_kind = Fields(table(fields, "rope_parameters"), where)
    new = {kind: table(by_kind, kind) for kind in ("full_attention", "sliding_attention")}
    by_kind.done()
    older = Fields(
        {
            "rope_parameters": new["full_attention"],
            "rope_scaling": fields.take("rope_scaling", None),
            "rope_theta": fields.take("rope_theta", None),
        },
        fields.where,
    )
    theta, scaling = rope_fields(older, 1000000.0)
    base = {"rope_theta": fields.take("rope_local_base_freq", None)}
    local, stretched = rope_fields(
        Fields({"rope_parameters": new["sliding_attention"], **base}, fields.where), 10000.0
    )
    if stretched.kind != "none":
        raise fields.error("rope_type", "be default for sliding layers", stretched.kind)
    return local, theta, scaling


def describe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of a Gemma 3's text model."""
    fields = gemma2.describe(config)
    fields |= {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"]}
    local = config.local_rope_theta or config.rope_theta
    return {
        **fields,
        "rope_local_base_freq": local,
        "rope_parameters": {
            "full_attention": fields["rope_parameters"],
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        },
    }


FAMILY = names.Family(
    config=config,
    describe=describe,
    sources=names.sources,
)
