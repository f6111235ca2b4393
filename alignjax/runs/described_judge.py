"""A judge that is described, opened: a run's policy, open weights, an address, a rule."""

import contextlib
import hashlib
import pathlib
from collections.abc import Iterator
from typing import Any

from alignjax.models import transformer
from alignjax.models.checkpoints import folder as open_weights
from alignjax.parallel import axes
from alignjax.rewards import described, judge, option_judge
from alignjax.runs import answers, evaluation
from alignjax.text import chat_format
from alignjax.text.tokenizers import load
from alignjax.training import method as methods


@contextlib.contextmanager
def opened(settings: described.Settings) -> Iterator[tuple[judge.Judge, str]]:
    """(the judge, a hash of all on which its verdicts depend).

    Raises:
      ValueError: a run or model is not to be read, has no policy, or no tokenizer.
    """
    rubric = settings if isinstance(settings, described.Rubric) else None
    asked = rubric.asked() if rubric else settings
    if isinstance(asked, described.Local):
        with model_of(asked) as (parts, content):
            yield _local(asked, rubric, parts), described.fingerprint(settings, content)
    elif isinstance(asked, described.Remote):
        yield described.remote_of(asked, rubric), described.fingerprint(settings, "")
    else:
        assert isinstance(asked, described.Rule)
        own, content = described.rule_judge(asked)
        yield own, described.fingerprint(settings, content)


def _local(
    asked: described.Local, rubric: described.Rubric | None, parts: tuple[Any, Any, Any]
) -> judge.Judge:
    model, params, tokenizer = parts
    # Rows lie on all devices of the mesh.
    rows = -(-asked.rows // axes.axis_size("batch")) * axes.axis_size("batch")
    if rubric is None:
        return option_judge.local(
            model, params, tokenizer, name=asked.name, pair_template=asked.template,
            options=described.two(asked.options), rows=rows, length=asked.length,
        )  # fmt: skip
    ask = option_judge.asker(
        model, params, tokenizer, template=rubric.template, options=described.two(rubric.options),
        rows=rows, length=asked.length,
    )  # fmt: skip
    return judge.rubric(rubric.name, ask, list(rubric.items.items()))


@contextlib.contextmanager
def model_of(asked: described.Local) -> Iterator[tuple[tuple[Any, Any, Any], str]]:
    """((model, bound parameters, tokenizer), a hash of the weights) inside the run's mesh."""
    if asked.model:
        stored = open_weights.open_model(asked.model)
        tokenizer = load.load_tokenizer(asked.model)
        own = (transformer.transformer(stored.config), stored.load(), tokenizer)
        yield own, hash_of_files(pathlib.Path(asked.model))
        return
    workdir = pathlib.Path(asked.workdir)
    with evaluation.language_model(workdir, best=asked.best) as run:
        speaker = run.corpus.speaker
        if speaker is None:
            raise ValueError(
                f"a judge's run must have data with a tokenizer; got {workdir}, whose world is no "
                "text. Name another."
            )
        tokenizer = speaker.tokenizer if isinstance(speaker, chat_format.ChatFormat) else speaker
        own = (run.model(methods.POLICY), run.joined(methods.POLICY), tokenizer)
        yield own, answers.fingerprint(run.where)


def hash_of_files(path: pathlib.Path) -> str:
    """sha256 in hex of a file, or of the names and contents of a folder's files."""
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened_file:
            digest = hashlib.file_digest(opened_file, "sha256").hexdigest()
        whole.update(f"{file.name} {digest}\n".encode())
    return whole.hexdigest()
