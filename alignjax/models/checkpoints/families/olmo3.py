"""OLMo 3."""

from typing import Any

from alignjax.models.checkpoints import names
from alignjax.models.checkpoints.families import common, olmo2
from alignjax.models.checkpoints.hf_config import Fields
from alignjax.models.config import TransformerConfig


def config(fields: Fields) -> TransformerConfig:
    """OLMo 3 (Team OLMo 2025): three windows to one full layer, which alone is ever stretched."""
    shape = olmo2.shared(fields)
    default = ["full" if (n + 1) % 4 == 0 else "sliding" for n in range(shape["layers"])]
    local, theta, scaling = common.rope_by_kind(fields, 500000.0, 500000.0)
    return TransformerConfig(
        **shape,
        **common.windowed(fields, default, shape["layers"], window=4096),
        rope_theta=theta,
        rope=scaling,
        local_rope_theta=local,
    )


def describe(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` of an OLMo 3."""
    fields = olmo2.describe(config)
    fields |= {"model_type": "olmo3", "architectures": ["Olmo3ForCausalLM"]}
    fields = {name: fields[name] for name in fields if name not in ("rope_theta", "rope_scaling")}
    return {
        **fields,
        **common.layer_types(config),
        **common.described_by_kind(config),
        "sliding_window": config.window or 4096,
    }


FAMILY = names.Family(
    config=config,
    describe=describe,
    sources=names.sources,
)
