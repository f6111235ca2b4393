"""Writes docs/models.md from the recorded models: python -m tests.models.families.table"""

import json
import math
import pathlib
import re
from typing import Any

from alignjax.models.checkpoints import folder
from alignjax.models.checkpoints.families import COMPOSITES
from alignjax.models.config import DeltaConfig, TransformerConfig
from alignjax.models.config_parts import ConvConfig, LentConfig
from tests.models.families import golden

FILE = pathlib.Path(__file__).parents[3] / "docs" / "models.md"
CHECKPOINTS = {
    "deepseek_v3": "DeepSeek V3, R1",
    "gemma2": "Gemma 2",
    "gemma3": "Gemma 3 (from 4B on), text part",
    "gemma3_text": "Gemma 3 (1B, and the text part of larger ones as its own folder)",
    "gemma4": "Gemma 4 (E2B, E4B, 26B-A4B, 31B), text part",
    "gemma4_text": "Gemma 4, text",
    "glm4": "GLM-4 0414, dense",
    "glm4_moe": "GLM-4.5, 4.6",
    "gpt_oss": "GPT-OSS 20B, 120B",
    "granite": "Granite 3.0 to 3.3, dense",
    "lfm2": "LFM2, dense",
    "llama": "Llama 2, 3, 3.1, 3.2 (text), 3.3; SmolLM2",
    "llama4": "Llama 4, text part",
    "llama4_text": "Llama 4, text",
    "mistral": "Mistral 7B",
    "mistral3": "Mistral Small 3.1, 3.2, text part",
    "mixtral": "Mixtral",
    "olmo2": "OLMo 2",
    "olmo3": "OLMo 3",
    "phi3": "Phi-3, Phi-3.5, Phi-4 (text)",
    "qwen2": "Qwen 2, 2.5",
    "qwen3": "Qwen 3",
    "qwen3_5": "Qwen 3.5, dense, text part",
    "qwen3_5_moe": "Qwen 3.5 with experts, text part",
    "qwen3_5_moe_text": "Qwen 3.5 with experts, text",
    "qwen3_5_text": "Qwen 3.5, dense, text",
    "qwen3_moe": "Qwen 3 MoE",
    "qwen3_next": "Qwen 3 Next",
    "smollm3": "SmolLM3",
}
HEAD = """# Models

Families of open weights: a folder of safetensors with its `config.json`, as transformers writes it,
is read by `alignjax.models.checkpoints.folder` and written back bit for bit. A GGUF file of a Llama
can be read too, and so can 8-bit weights with a scale for each block (`quant_method` fp8, as
DeepSeek V3 is published) and experts in 4 bits with a power of two for each 32 numbers (`mxfp4`, as
GPT-OSS is published). They are read as the numbers that they stand for and written back whole, in
the dtype of the parameters; a line says so. Other ways to store weights in few bits are refused by
name. `python -m tests.models.families.table` writes this page.

Of models of text and images (`gemma3`, `gemma4`, `llama4`, `mistral3`, `qwen3_5`, `qwen3_5_moe`;
`gemma4` hears too) the text part is read, under older and newer names, where
`--config.weights_skip=vision` (training, `alignjax import`) or `--skip=vision`
(`sample`, `chat`, `serve`, `evaluate --suite`) asks for it; else what sees is listed and the model
refused. What is written is a model of text alone, and adapters over it have that model's names.
Other commands take the folder that `alignjax export` writes of an import. A layer that predicts a
further token (`mtp.*`) is left out on request too: `mtp`, or `vision+mtp` for both.

Layers of kind `delta` (`linear_attention` in `config.json`) have the gated delta rule in place of
attention (Yang et al. 2024, Gated Delta Networks). They train in chunks of 64 tokens in fp32, equal
to the recurrence; a packed segment finds an empty state and an empty convolution, and padding,
wherever it stands, changes neither. A cache holds one matrix [key, value] a head and the last
inputs of the convolution, at any length. Heads are split over the mesh's model axis; a row that is
split over its seq axis is gone over whole on each of its devices. Prefix adapters, which need keys,
are refused.

Of Gemma 4 full layers have heads of sizes of their own (`global_head_dim`, `per_layer_config`),
whose keys may be their values too; the last `num_kv_shared_layers` layers see keys and values of
the last layer of their kind before them, and a cache keeps none of their own; each layer adds an
embedding of its own. `layer_scalar`, which transformers does not train, gets no gradient. Adapters
over the layers' matrices are merged on export; `export --adapters` and prefix adapters refuse such
models, and so does `weights_layers`, for a part of the layers is no model.

Layers of kind `conv` (LFM2) have a short gated convolution in place of attention: a cache holds its
last inputs, at any length, and a packed segment finds none. Channels are split over the model axis;
adapters of its maps (`in_gate`, `out_gate`, `value`, `out`) are merged on export.

| model_type | checkpoints |
|---|---|
{families}

Positions of type `dynamic` (Llama) and `longrope` (Phi-3) turn by the length of a token's own row:
a row read whole is what transformers computes of that row alone, whatever stands beside it. By a
cache, keys stay as they were turned when they came, as in transformers, so that beyond the original
length answers are not scored exactly as they were sampled; a line says so. What is fused in one
tensor (Phi-3's queries, keys and values; gates and ways in of Phi-3, GLM-4 and GPT-OSS's experts)
takes our adapters, merged on export; `export --adapters` refuses them.

## Parity

Each row is a small random model built and saved by transformers ({versions};
fp32, eager attention, CPU) and loaded by us. Logits: the largest absolute difference of batches
padded on either side, of rows packed into one, and of decoding through the key-value cache.
Gradients: of the prompt's mean cross entropy, the largest difference relative to each tensor's
largest entry (at least 1e-4). All are rounded up to a power of ten. The tests ask for 1e-04 and
1e-03. A field of `config.json` or a tensor that is not understood is an error.

| family | what it has | padded | packed | cached | gradients |
|---|---|---|---|---|---|
{rows}

Live, on new random models of every family (odd head counts, biases, windows, experts, tied or not):
`pytest -m slow tests/models/families/test_live.py` with torch and transformers installed. There
the prompt's and the rows' logits are within 1e-04 and gradients within 1e-03 as above, and what is
written is read by transformers with every tensor and every logit equal bit for bit.
"""


def page(*, measure: bool = True) -> str:
    """The page; without `measure` the errors are left out."""
    models = [golden.dense(path) for path in golden.DENSE]
    models += [golden.sparse(path) for path in golden.SPARSE]
    models.sort(key=lambda g: (kind_of(g), g.name))
    versions = {f"{k} {v.split('+')[0]}" for g in models for k, v in g.versions.items()}
    families = [
        f"| `{kind}` | {CHECKPOINTS[kind]} |" for kind in sorted({*folder.FAMILIES, *COMPOSITES})
    ]
    return HEAD.format(
        families="\n".join(families),
        versions=", ".join(sorted(versions)),
        rows="\n".join(row(g, measure) for g in models),
    )


def kind_of(model: golden.Golden) -> str:
    """The `model_type` of its folder."""
    return json.loads((model.path / "config.json").read_text())["model_type"]


def row(model: golden.Golden, measure: bool) -> str:
    family, errors = kind_of(model), ["-"] * 4
    if measure:
        padded = max(golden.padded_error(model, side) for side in model.padded)
        packed, cached = golden.packed_error(model), golden.decoded_error(model)
        gradient = golden.gradient_error(model)[1]
        errors = [rounded(e) for e in (padded, packed, cached, gradient)]
    return f"| {family} | {features(model.stored.config)} | {' | '.join(errors)} |"


def features(config: TransformerConfig) -> str:
    """A configuration in words."""
    grouped = f"{config.heads} heads on {config.kv_heads}"
    kinds = [kind for kind in dict.fromkeys(config.kinds()) if kind != "full"]
    moe = config.moe
    parts: list[Any] = [
        "latent attention" if config.mla.kv_rank else grouped,
        kinds and f"{' and '.join(kinds)} layers" + (" among full ones" if mixed(config) else ""),
        "delta" in kinds and rule(config.delta),
        "conv" in kinds and convolution(config.conv),
        config.attention_gate and "gated attention",
        config.window and f"window {config.window}",
        config.rope.kind != "none" and f"{config.rope.kind} positions",
        config.rope_dim and f"{config.rope_dim} of {config.head_dim} dimensions turn",
        config.rope_interleaved and "neighbours turn",
        config.local_rope_theta and "local base",
        config.qkv_bias and ("biases" if config.out_bias else "q, k, v biases"),
        config.mlp_bias and "MLP biases",
        config.qk_norm != "none" and f"q, k norms ({config.qk_norm})",
        config.query_tuning and "query temperature",
        config.value_norm and "v norms",
        config.wide.head_dim and wide(config),
        config.lent.layers and lent(config.lent),
        config.layer_inputs and f"embeddings of {config.layer_inputs} by layer",
        config.sinks and "sinks",
        config.attention_softcap and "attention cap",
        config.logit_softcap and "logit cap",
        config.branch_scale != 1 and "scaled branches",
        config.logit_scale != 1 and "scaled logits",
        config.post_norms and f"norms after branches{'' if config.pre_norms else ' alone'}",
        moe.experts and f"{moe.active} of {moe.experts} experts ({moe.scores})",
        moe.experts and moe.beside and "beside the MLP",
        moe.experts and moe.bias and "biases of experts and router",
        moe.experts and moe.clamp and f"clamped at {moe.clamp:g}",
        moe.experts and moe.groups > 1 and f"in {moe.groups} groups",
        moe.experts and moe.shared_ff and f"{'gated ' if moe.shared_gate else ''}shared expert",
        moe.experts and not all(sparse for sparse, _ in config.stacks()) and "dense layers",
        "tied" if config.tied else "untied",
    ]
    return ", ".join(part for part in parts if part)


def rule(delta: DeltaConfig) -> str:
    heads = f"{delta.value_heads} value heads on {delta.key_heads}"
    return f"{heads}, convolution over {delta.taps}"


def convolution(own: ConvConfig) -> str:
    return f"convolution over {own.taps}{' with biases' if own.bias else ''}"


def wide(config: TransformerConfig) -> str:
    """Heads of full layers."""
    own = config.wide
    values = ", whose keys are values" if own.single else ""
    return f"full layers of {config.heads} heads of {own.head_dim} on {own.kv_heads}{values}"


def lent(own: LentConfig) -> str:
    return f"{own.layers} layers on keys of others{' with wider MLPs' if own.ff else ''}"


def mixed(config: TransformerConfig) -> bool:
    return "full" in config.kinds()


def rounded(error: float) -> str:
    """Up to a power of ten."""
    return "0" if error == 0 else f"{10.0 ** math.ceil(math.log10(error)):.0e}"


def without_errors(text: str) -> str:
    """The page's rows without their digits."""
    return re.sub(r"( \| (-|0|\de[+-]\d+)){4} \|$", " |", text, flags=re.MULTILINE)


if __name__ == "__main__":
    FILE.write_text(page())
    print(FILE)
