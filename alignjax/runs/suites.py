"""A run's policy or open weights as the candidate of evaluation suites."""

import contextlib
import importlib.util
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from alignjax.evals.suites import candidate, layout, record
from alignjax.models import transformer
from alignjax.models.checkpoints import folder as open_weights
from alignjax.runs import answers, described_judge, evaluation
from alignjax.sampling import transforms
from alignjax.text import chat_format
from alignjax.text.tokenizers import load
from alignjax.training import method as methods

PLAIN = "none"  # the template that is none: questions and answers as plain text


class Asked(NamedTuple):
    """Which model is asked, and how. model: open weights, or workdir: a run. template, pad,
    date: as in `chat_format.load_chat_format`, or "none". skip: as in `open_weights.open_model`.
    system: the system prompt."""

    model: str = ""
    workdir: str = ""
    best: bool = False
    definitions: str = ""
    template: str = ""
    pad: str = ""
    date: str = ""
    skip: str = ""
    system: str = ""


class Parts(NamedTuple):
    """A model with its bound parameters, how it reads conversations, and hashes of it."""

    model: Any
    params: Any
    layout: layout.Layout
    identity: Mapping[str, str]


@contextlib.contextmanager
def opened(
    asked: Asked, sampling: transforms.SamplingConfig, limits: candidate.Limits
) -> Iterator[record.Candidate]:
    """The candidate; for a run, inside its mesh.

    Raises:
      ValueError: as `parts`, or answers leave no room for prompts.
    """
    how = {"answers": repr(sampling), "length": str(limits.length), "seed": str(limits.seed)}
    with parts(asked) as own:
        yield candidate.make(
            own.model, own.params, own.layout, sampling=sampling, limits=limits,
            identity={**own.identity, **how},
        )  # fmt: skip


@contextlib.contextmanager
def harness(asked: Asked, limits: candidate.Limits) -> Iterator[Any]:
    """The same as an `LM` of lm-eval, for its `simple_evaluate`.

    Raises:
      ValueError: as `parts`, or lm-eval is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ValueError(
            "harness needs the package lm-eval; it is not installed. Run pip install "
            "'alignjax[eval]'."
        )
    from alignjax.evals import harness as adapters

    with parts(asked) as own:
        yield adapters.Adapter(own.model, own.params, own.layout, limits)


@contextlib.contextmanager
def parts(asked: Asked) -> Iterator[Parts]:
    """What is asked, opened.

    Raises:
      ValueError: both or none of model and run are named, it is not to be read, has no policy or no
        tokenizer, or a run's template is to be another.
    """
    if bool(asked.model) == bool(asked.workdir):
        raise ValueError(
            "--suite must come with --model or --workdir, and not with both; got "
            f"{asked.model!r} and {asked.workdir!r} (evaluate)."
        )
    if asked.model:
        stored = open_weights.open_model(asked.model, skip=asked.skip)
        form = layout.Layout(_speaker(asked), asked.system, asked.template == PLAIN)
        weights = described_judge.hash_of_files(pathlib.Path(asked.model))
        identity = {"model": asked.model, "weights": weights}
        yield Parts(transformer.transformer(stored.config), stored.load(), form, identity)
        return
    workdir = pathlib.Path(asked.workdir)
    with evaluation.language_model(workdir, best=asked.best, definitions=asked.definitions) as run:
        speaker = run.corpus.speaker
        if speaker is None or asked.template not in ("", PLAIN):
            raise ValueError(
                "--suite must have a run with a tokenizer, asked in its own template or "
                f"--template=none; got {workdir} and {asked.template!r} (evaluate). Export the run "
                "and name the folder with --model for another."
            )
        form = layout.Layout(speaker, asked.system, asked.template == PLAIN)
        identity = {"model": str(workdir), "weights": answers.fingerprint(run.where)}
        yield Parts(run.model(methods.POLICY), run.joined(methods.POLICY), form, identity)


def _speaker(asked: Asked) -> Any:
    """The tokenizer of open weights with its template, or alone for plain text."""
    if asked.template != PLAIN:
        return chat_format.load_chat_format(
            asked.model, template=asked.template, pad=asked.pad, date=asked.date
        )
    tokenizer = load.load_tokenizer(asked.model)
    return load.with_pad(tokenizer, asked.pad) if asked.pad else tokenizer
