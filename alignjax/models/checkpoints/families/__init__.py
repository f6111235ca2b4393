"""Families of open weights, one file each: what a `config.json` means, a `config.json` for a
configuration, and the tensors behind the parameters. Defaults of absent fields are those of
transformers."""

from alignjax.models.checkpoints.families import (
    deepseek_v3,
    gemma2,
    gemma3,
    gemma4,
    glm4,
    glm4_moe,
    gpt_oss,
    granite,
    lfm2,
    llama,
    llama4,
    mistral,
    mistral3,
    mixtral,
    olmo2,
    olmo3,
    phi3,
    qwen2,
    qwen3,
    qwen3_5,
    qwen3_5_moe,
    qwen3_moe,
    qwen3_next,
    smollm3,
)
from alignjax.models.checkpoints.families.composite import Composite
from alignjax.models.checkpoints.names import Family

# By `model_type`. A configuration is described by the first that expresses it (`folder.hf_fields`).
FAMILIES: dict[str, Family] = {
    "llama": llama.FAMILY,
    "smollm3": smollm3.FAMILY,
    "mistral": mistral.FAMILY,
    "qwen2": qwen2.FAMILY,
    "qwen3": qwen3.FAMILY,
    "gemma2": gemma2.FAMILY,
    "gemma3_text": gemma3.FAMILY,
    "gemma4_text": gemma4.FAMILY,
    "granite": granite.FAMILY,
    "lfm2": lfm2.FAMILY,
    "phi3": phi3.FAMILY,
    "glm4": glm4.FAMILY,
    "olmo2": olmo2.FAMILY,
    "olmo3": olmo3.FAMILY,
    "mixtral": mixtral.FAMILY,
    "qwen3_moe": qwen3_moe.FAMILY,
    "qwen3_next": qwen3_next.FAMILY,
    "qwen3_5_text": qwen3_5.FAMILY,
    "qwen3_5_moe_text": qwen3_5_moe.FAMILY,
    "deepseek_v3": deepseek_v3.FAMILY,
    "glm4_moe": glm4_moe.FAMILY,
    "gpt_oss": gpt_oss.FAMILY,
    "llama4_text": llama4.FAMILY,
}

# Of text and images, by `model_type`; the text part is one of the families above.
COMPOSITES: dict[str, Composite] = {
    "gemma3": gemma3.COMPOSITE,
    "gemma4": gemma4.COMPOSITE,
    "llama4": llama4.COMPOSITE,
    "mistral3": mistral3.COMPOSITE,
    "qwen3_5": qwen3_5.COMPOSITE,
    "qwen3_5_moe": qwen3_5_moe.COMPOSITE,
}
