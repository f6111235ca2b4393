"""Models of text and images, or sound: the text part of one is a model of its own, which we read.

The text part has the fields of `text_config`, and the tensors `model.language_model.*` and
`lm_head.weight` (in older files `language_model.model.*` and `language_model.lm_head.weight`).
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from alignjax.models.checkpoints import sharded
from alignjax.models.checkpoints.hf_config import Fields, table
from alignjax.models.checkpoints.safetensors_format import TensorInfo

# What may be left out on request: images, and sound with them; a further token's layer.
VISION, MTP = "vision", "mtp"
BOTH = f"{VISION}+{MTP}"
SKIPS = ("", VISION, MTP, BOTH)
# Tensors of the text part, with their names in a model of text alone.
TEXT = (
    (r"(model\.)?language_model\.lm_head\.", "lm_head."),
    (r"(model\.language_model|language_model\.model)\.", "model."),
)
SEES = r"(model\.)?(vision_tower|vision_model|visual|multi_modal_projector|embed_vision)\."
HEARS = r"(model\.)?(audio_tower|embed_audio)\."
# Fields that stand for the text part where it has none of its own.
SHARED = ("bos_token_id", "eos_token_id", "pad_token_id", "dtype", "transformers_version")
HEAD = "lm_head.weight"


class Composite(NamedTuple):
    """A family of models of text and images, under the `model_type` of its `config.json`.

    text: the `model_type` of its text part. architecture: the class of that part alone. fields: its
    own fields, which say nothing of text. defaults: of fields that `text_config` may leave out.
    ties: whether its own `tie_word_embeddings` counts, not that of `text_config`. hears: whether
    its models may have tensors of sound, which are left out with those of images.
    """

    text: str
    architecture: str
    fields: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = {}
    ties: bool = True
    hears: bool = False


def skipped(skip: str) -> tuple[str, ...]:
    """What one of SKIPS leaves out."""
    return tuple(skip.split("+"))


class TextTensors:
    """The tensors of a folder under their names in a model of text alone.

    Attributes:
      tensors: name -> TensorInfo, without those that were left out.
    """

    def __init__(self, held: sharded.Tensors, skip: str, where: str, *, hears: bool = False):
        self._held = held
        self._names: dict[str, str] = {}
        seen: dict[str, int] = {}
        for name in held.tensors:
            found = re.match(SEES, name) or (re.match(HEARS, name) if hears else None)
            if found:
                seen[found[2]] = seen.get(found[2], 0) + 1
            else:
                self._names[_text_name(name)] = name
        if seen and VISION not in skipped(skip):
            parts = ", ".join(f"{part} ({count} tensors)" for part, count in sorted(seen.items()))
            senses = "sees and hears" if any("audio" in part for part in seen) else "sees images"
            raise ValueError(
                f"weights must be of text alone; {where} {senses} too: {parts}. Ask for its "
                "text part without them: --config.weights_skip=vision, or --skip=vision with "
                "--model."
            )
        self.tensors: dict[str, TensorInfo] = {
            name: held.tensors[stored] for name, stored in self._names.items()
        }

    def read(self, name: str, index: Any = (), shape: tuple[int, ...] | None = None) -> np.ndarray:
        """A new array of the tensor's part at `index`, as `TensorFolder.read` gives it."""
        return self._held.read(self._names.get(name, name), index, shape)


def _text_name(name: str) -> str:
    for pattern, start in TEXT:
        found = re.match(pattern, name)
        if found:
            return start + name[found.end() :]
    return name


def text_fields(
    values: Mapping[str, Any], family: Composite, tensors: TextTensors, where: str
) -> dict[str, Any]:
    """The `config.json` of the text part alone.

    Raises:
      ValueError: a field that is not known, or a text part of another family.
    """
    fields = Fields(dict(values), where)
    fields.only("is_encoder_decoder", False)
    text = table(fields, "text_config")
    kind = text.get("model_type", family.text)
    if kind != family.text:
        raise fields.error("text_config.model_type", f"be {family.text}", repr(kind))
    own = fields.take("tie_word_embeddings", None)
    if family.ties:
        # Without a word of it, an unembedding that is stored is one of its own.
        text["tie_word_embeddings"] = HEAD not in tensors.tensors if own is None else own
    for name in ("vision_config", *family.fields):
        fields.take(name, None)
    shared = {name: values[name] for name in SHARED if values.get(name) is not None}
    fields.done()
    return {
        **family.defaults,
        **shared,
        **text,
        "architectures": [family.architecture],
        "model_type": family.text,
    }
