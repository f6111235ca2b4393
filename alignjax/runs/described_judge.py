"""A judge that is described, opened: a run's policy, open weights, an address, a rule."""

import contextlib
import hashlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from alignjax.core import untrusted
from alignjax.evals.suites import candidate, layout
from alignjax.models import transformer
from alignjax.models.checkpoints import folder as open_weights
from alignjax.parallel import axes
from alignjax.rewards import described, judge, option_judge
from alignjax.rewards import judge_settings as models
from alignjax.runs import answers, evaluation
from alignjax.sampling import transforms
from alignjax.text import chat, chat_format
from alignjax.text.tokenizers import load
from alignjax.training import method as methods


@contextlib.contextmanager
def opened(settings: described.Settings) -> Iterator[tuple[judge.Judge, str]]:
    """(the judge, a hash of all on which its verdicts depend).

    Raises:
      ValueError: a run or model is not to be read, has no policy, or no tokenizer.
    """
    asked = settings.asked() if isinstance(settings, described.Asking) else settings
    if isinstance(asked, models.Local):
        with model_of(asked) as (parts, content):
            yield (
                settings.build(local_asker(asked, parts)),
                described.fingerprint(settings, content),
            )
    elif isinstance(asked, models.Remote):
        yield settings.build(models.remote_asker(asked)), described.fingerprint(settings, "")
    else:
        assert isinstance(asked, described.Rule)
        own, content = described.rule_judge(asked)
        yield own, described.fingerprint(settings, content)


def local_asker(asked: models.Local, parts: tuple[Any, Any, Any]) -> models.Asker:
    """A model of ours, opened. parts: (model, bound parameters, tokenizer or chat format)."""
    model, params, speaker = parts
    tokenizer = plain(speaker)
    # Rows lie on all devices of the mesh.
    rows = -(-asked.rows // axes.axis_size("batch")) * axes.axis_size("batch")

    def pair(name: str, template: str, options: tuple[str, str]) -> judge.Judge:
        return option_judge.local(
            model, params, tokenizer, name=name, pair_template=template, options=options,
            rows=rows, length=asked.length,
        )  # fmt: skip

    def ask(template: str, options: tuple[str, str]) -> judge.Ask:
        return option_judge.asker(
            model, params, tokenizer, template=template, options=options, rows=rows,
            length=asked.length,
        )  # fmt: skip

    def write(tokens: int) -> models.Write:
        return writer(model, params, speaker, asked, tokens)

    return models.Asker(pair, ask, write)


def writer(
    model: Any,
    params: Any,
    speaker: Any,
    asked: models.Local,
    tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> models.Write:
    """How a model of ours answers requests, in its own chat template where it has one.

    What is written depends on the seed, the request's number and the request alone; one that is too
    long has the answer "".

    Raises:
      ValueError: answers leave no room for requests.
    """
    own = layout.Layout(speaker, plain=speaker is plain(speaker))
    sampling = transforms.SamplingConfig(max_new_tokens=tokens, temperature=temperature)
    sampling.validate()
    if tokens >= asked.length:
        raise ValueError(
            f"length must be above max_new_tokens; got {asked.length} and {tokens}. Raise it."
        )
    limits = candidate.Limits(asked.rows, asked.length, seed)
    sampler = candidate.Sampler(model, params, sampling, limits, own)

    def write(requests: Sequence[str]) -> list[str]:
        answers = sampler([own.prompt([chat.Turn(chat.HUMAN, text)]) for text in requests])
        return [answer.text or "" for answer in answers]

    return write


def plain(speaker: Any) -> Any:
    """The tokenizer of a chat format, or the tokenizer itself."""
    return speaker.tokenizer if isinstance(speaker, chat_format.ChatFormat) else speaker


@contextlib.contextmanager
def model_of(asked: models.Local) -> Iterator[tuple[tuple[Any, Any, Any], str]]:
    """((model, bound parameters, chat format or tokenizer), a hash of the weights), inside a run's
    mesh."""
    if asked.model:
        stored = open_weights.open_model(asked.model)
        own = (transformer.transformer(stored.config), stored.load(), _speaker(asked.model))
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
        own = (run.model(methods.POLICY), run.joined(methods.POLICY), speaker)
        yield own, answers.fingerprint(run.where)


def _speaker(path: str) -> Any:
    """The chat format of open weights, or their tokenizer alone where they have no template."""
    try:
        return chat_format.load_chat_format(path)
    except ValueError:
        return load.load_tokenizer(path)


def hash_of_files(path: pathlib.Path) -> str:
    """sha256 in hex of a file, or of the names and contents of a folder's files."""
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
    whole = hashlib.sha256()
    for file in files:
        with untrusted.opened(file) as opened_file:
            digest = hashlib.file_digest(opened_file, "sha256").hexdigest()
        whole.update(f"{file.name} {digest}\n".encode())
    return whole.hexdigest()
