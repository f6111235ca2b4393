"""A model to serve, read by the same loaders as `alignjax sample` reads it."""

import pathlib
from typing import Any, NamedTuple

import jax

from alignjax.models import cache_rows, transformer
from alignjax.models import model as models
from alignjax.models.checkpoints import folder as open_weights
from alignjax.models.config import TransformerConfig
from alignjax.runs import evaluation, sources
from alignjax.text import chat, chat_format
from alignjax.training import method as methods


class Served(NamedTuple):
    """A language model with its tokenizer.

    name: by which requests ask for it. params: bound, as `model` reads them. shape: of a
    Transformer, None for another model. ends: ids at which answers end. pad: what stands in for
    tokens that are not there. context: tokens that it was trained for, 0 where unknown.
    """

    name: str
    model: models.Model
    params: Any
    speaker: chat.Speaker
    ends: tuple[int, ...]
    pad: int
    shape: TransformerConfig | None = None
    context: int = 0


def load(
    path: str,
    *,
    template: str = "",
    pad: str = "",
    date: str = "",
    name: str = "",
    skip: str = "",
) -> Served:
    """The model of a folder of open weights, a .gguf file or the folder of a run.

    Args:
      template, pad, date: as in `chat_format.load_chat_format`, for open weights. name: empty
        takes that of the folder or file. skip: as in `open_weights.open_model`.

    Raises:
      ValueError: nothing is there that can be read, or it is no language model with a tokenizer.
    """
    if not path:
        raise ValueError(
            "--model must be a model folder, a .gguf file or the folder of a run; got ''."
        )
    place = pathlib.Path(path)
    name = name or (place.stem if place.suffix == ".gguf" else place.resolve().name)
    served = (
        _run(place, name)
        if sources.is_run(path)
        else _weights(path, name, template, pad, date, skip)
    )
    if not cache_rows.is_ours(jax.eval_shape(lambda: served.model.cache(1, 1))):
        raise ValueError(
            f"--model must have a cache whose rows can be told apart; got {path}, a Flax model "
            "with one of its own. Leave out its make_cache."
        )
    return served


def _weights(path: str, name: str, template: str, pad: str, date: str, skip: str) -> Served:
    stored = open_weights.open_model(path, skip=skip)
    form = chat_format.load_chat_format(
        path, template=template, pad=pad, date=date, rows=stored.config.vocab_size
    )
    pad_id = form.eos_id if form.tokenizer.pad_id is None else form.pad_id  # masks go by lengths
    return Served(
        name=name,
        model=transformer.transformer(stored.config),
        params=stored.load(),
        speaker=form,
        ends=form.ends,
        pad=pad_id,
        shape=stored.config,
        context=stored.context,
    )


def _run(place: pathlib.Path, name: str) -> Served:
    with evaluation.language_model(place) as run:
        corpus = run.corpus
        if corpus.speaker is None:
            raise ValueError(
                f"--model must have a tokenizer; got {place}, a run on a world of token ids. Train "
                "on text."
            )
        model, params = run.model(methods.POLICY), run.joined(methods.POLICY)
    params = jax.device_put(params, jax.devices()[0])  # a server runs on one device
    shape = run.parts.shape
    return Served(
        name=name,
        model=model,
        params=params,
        speaker=corpus.speaker,
        ends=corpus.ends,
        pad=corpus.pad,
        shape=shape if isinstance(shape, TransformerConfig) else None,
    )
