"""Targets of attacks, opened: a run's policy, or a folder of open weights."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from alignjax.models import model as models
from alignjax.models import transformer
from alignjax.models.checkpoints import folder as open_weights
from alignjax.runs import answers, described_judge, evaluation
from alignjax.text import chat, chat_format
from alignjax.training import method as methods


class Opened(NamedTuple):
    """A language model with its bound parameters. ends: ids at which answers end. pad: an id.
    identity: what it is."""

    model: models.Model
    params: Any
    speaker: chat.Speaker
    ends: tuple[int, ...]
    pad: int
    identity: dict[str, str]


@contextlib.contextmanager
def opened(
    workdir: str,
    model: str,
    *,
    best: bool = False,
    template: str = "",
    date: str = "",
    definitions: str = "",
) -> Iterator[Opened]:
    """The policy of a run, inside its mesh, or open weights.

    Raises:
      ValueError: it is not to be read, has no policy, or no tokenizer with a template.
    """
    if model:
        stored = open_weights.open_model(model)
        form = chat_format.load_chat_format(
            model, template=template, date=date, rows=stored.config.vocab_size
        )
        pad = form.eos_id if form.tokenizer.pad_id is None else form.pad_id  # masks go by lengths
        digest = described_judge.hash_of_files(pathlib.Path(model))
        own = transformer.transformer(stored.config)
        told = {"model": model, "weights": digest}
        yield Opened(own, stored.load(), form, form.ends, pad, told)
        return
    place = pathlib.Path(workdir)
    with evaluation.language_model(place, best=best, definitions=definitions) as run:
        if run.corpus.speaker is None:
            raise ValueError(
                f"an attack's run must have data with a tokenizer; got {place}, whose world is no "
                "text. Name another."
            )
        told = {"run": workdir, "weights": answers.fingerprint(run.where)}
        yield Opened(
            run.model(methods.POLICY), run.joined(methods.POLICY), run.corpus.speaker,
            run.corpus.ends, run.corpus.pad, told,
        )  # fmt: skip
