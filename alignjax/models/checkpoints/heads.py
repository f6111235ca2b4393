"""Reward and value models as transformers stores them: a sequence classifier with one label.

Such a folder has no unembedding; its head is `score.weight` [1, D] without a bias. transformers
scores a row at its last token that is not the pad id, we score it at its last real token: a row
that ends in the pad id (for example where that is the end of text) differs.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from alignjax.core import struct
from alignjax.models import transformer
from alignjax.models.checkpoints import folder
from alignjax.models.checkpoints.sources import Source
from alignjax.models.config import TransformerConfig

SCORE = Source("score.weight", "label d -> d", sizes={"label": 1}, take={"label": 0})
# Where the class of a sequence classifier is not named after that of the language model.
RENAMED = {"Gemma3ForCausalLM": "Gemma3TextForSequenceClassification"}


def _sources(sources: transformer.Transformer) -> transformer.Transformer:
    return struct.replace(sources, unembed=None, scalar=SCORE)


def open_reward(path: str | pathlib.Path, *, skip: str = "") -> folder.Stored:
    """Opens a reward or value model; `load()` gives parameters with a scalar head in float32 and
    without an unembedding. skip: as in `folder.open_model`.

    Raises:
      ValueError: as `folder.open_model`; other than one label, or a bias, when it is loaded.
    """
    stored = folder.open_model(path, skip=skip)
    return dataclasses.replace(stored, sources=_sources(stored.sources), scored=True)


def save_reward(
    path: str | pathlib.Path,
    config: TransformerConfig,
    weights: transformer.Transformer,
    fields: Mapping[str, Any],
    *,
    pad_id: int | None = None,
    dtype: Any = None,
) -> None:
    """Writes a folder that transformers loads as a sequence classifier with one label.

    Args:
      config, weights: the model, with a scalar head; an unembedding is left out.
      fields: the `config.json` of the language model or of a reward model.
      pad_id: by which transformers finds the end of a row; that of `fields` where None.
      dtype: of the tensors; that of the parameters where None.

    Raises:
      ValueError: there is no head or no pad id, or the fields describe another model.
    """
    if weights.scalar is None:
        raise ValueError("a reward model must have a scalar head; got none (save_reward).")
    pad_id = fields.get("pad_token_id") if pad_id is None else pad_id
    if pad_id is None:
        raise ValueError(
            "pad_id must be given where config.json has no pad_token_id (save_reward). "
            "transformers finds the last token of a row by it."
        )
    family = folder.checked_family(config, fields)
    described = {
        **fields,
        "architectures": [_architecture(name) for name in fields.get("architectures") or ()],
        "pad_token_id": pad_id,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }
    bare = struct.replace(weights, unembed=None)
    sources = _sources(family.sources(config))
    folder.write(path, bare, sources, described, dtype or config.param_dtype)


def _architecture(name: str) -> str:
    """The class of a sequence classifier by that of a language model."""
    return RENAMED.get(name, name.replace("ForCausalLM", "ForSequenceClassification"))
