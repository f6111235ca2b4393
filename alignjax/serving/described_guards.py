"""Detectors as JSON files describe them, opened.

{"kind": "run", "workdir": FOLDER}: a guard that alignjax train trained.
{"kind": "options", "model" or "workdir": FOLDER, "categories": {NAME: QUESTION}}: a language model
  that is asked yes or no, by the probabilities of its options.
{"kind": "rule", "categories": {NAME: {"words": [...], "patterns": [...]}}}.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alignjax.core import shapes, untrusted, values
from alignjax.parallel import mesh as meshes
from alignjax.rewards import described, judge_settings, option_judge
from alignjax.runs import answers, described_judge, evaluation
from alignjax.serving import detectors
from alignjax.training import method as methods


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What every detector has."""

    kind: str = ""
    name: str = "guard"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained(Settings):
    """The run of a guard. best: its best state in place of the last. rows: scored at once."""

    workdir: str = ""
    best: bool = False
    rows: int = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked(Settings):
    """A language model that is asked. categories: {name: a question with the answer yes or no}.

    template: with {prompt}, the conversation, and {question}. rows, length: of a batch, in tokens;
    what is longer can't be told.
    """

    model: str = ""
    workdir: str = ""
    best: bool = False
    categories: Mapping[str, str] = dataclasses.field(default_factory=dict)
    template: str = detectors.QUESTION
    options: tuple[str, ...] = ("yes", "no")
    rows: int = 8
    length: int = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule(Settings):
    """Lists of words. categories: {name: {"words": [...], "patterns": [...]}}."""

    categories: Mapping[str, Any] = dataclasses.field(default_factory=dict)


KINDS: Mapping[str, type[Settings]] = {"run": Trained, "options": Asked, "rule": Rule}


def read(path: str) -> Settings:
    """The settings of a file of JSON, or of a run's folder.

    Raises:
      ValueError: no such file, no object, or an unknown kind or setting.
    """
    if path and pathlib.Path(path).is_dir():
        return Trained(kind="run", name=pathlib.Path(path).name, workdir=path)
    try:
        fields = untrusted.read_json(path, untrusted.OPTION)
    except OSError as error:
        raise ValueError(
            f"--guard must be a run's folder or a file of JSON; got {path!r} ({error.strerror}). "
            "Describe a guard: docs/guards.md."
        ) from None
    except untrusted.Refused as error:
        raise ValueError(f"--guard must be a file of JSON; got another: {error}") from None
    if not isinstance(fields, Mapping):
        raise ValueError(f"a guard must be a JSON object; got {fields!r:.60} ({path}).")
    kind = KINDS[values.check_choice(f"kind ({path})", fields.get("kind", ""), KINDS)]
    return kind(**values.read_fields(kind(), fields, path))


@contextlib.contextmanager
def opened(settings: Settings) -> Iterator[detectors.Detector]:
    """The detector.

    Raises:
      ValueError: a run or model is not to be read, is no guard, or a setting breaks a rule.
    """
    if isinstance(settings, Trained):
        yield trained(settings)
    elif isinstance(settings, Asked):
        with _asked(settings) as own:
            yield own
    else:
        assert isinstance(settings, Rule)
        yield _rule(settings)


def trained(settings: Trained) -> detectors.Detector:
    """The detector of a guard's run.

    Raises:
      ValueError: the folder is no run's, or no guard's, or its data have no tokenizer.
    """
    workdir = pathlib.Path(settings.workdir)
    record = evaluation.open_record(workdir)
    mesh = meshes.make_mesh(record.config.mesh)
    with meshes.use(mesh):
        run = evaluation.Run(workdir, record, best=settings.best)
        speaker, categories = run.corpus.speaker, run.corpus.categories
        if not categories or methods.SCORER not in run.product or speaker is None:
            raise ValueError(
                f"a guard's run must have a scorer, and text with categories; got {workdir}, a "
                f"{run.parts.record.name} run. Train one: experiments/guard.py."
            )
        return detectors.classifier(
            settings.name, run.model(methods.SCORER), run.joined(methods.SCORER), speaker,
            categories, length=run.corpus.length, rows=settings.rows, mesh=mesh,
            fingerprint=answers.fingerprint(run.where),
        )  # fmt: skip


@contextlib.contextmanager
def _asked(settings: Asked) -> Iterator[detectors.Detector]:
    described.check_options(settings.options, settings.name)
    described.check_template("template", settings.template, ("prompt", "question"), settings.name)
    if not settings.categories:
        raise ValueError(f"categories must name a question each; got none ({settings.name}).")
    local = judge_settings.Local(
        kind="local", workdir=settings.workdir, model=settings.model, best=settings.best
    )
    local.validate(settings.name)
    shapes.check_number(f"rows ({settings.name})", settings.rows, minimum=1)
    with described_judge.model_of(local) as ((model, params, speaker), content):
        ask = option_judge.asker(
            model, params, described_judge.plain(speaker), template=settings.template,
            options=described.two(settings.options), rows=settings.rows, length=settings.length,
        )  # fmt: skip
        asked_of = [settings.template, settings.options, dict(settings.categories), content]
        yield detectors.asked(settings.name, ask, settings.categories, _hash(asked_of))


def _rule(settings: Rule) -> detectors.Detector:
    listed = {}
    for category, fields in settings.categories.items():
        if not isinstance(fields, Mapping) or set(fields) - {"words", "patterns"}:
            raise ValueError(
                f"a category must hold words or patterns; got another ({settings.name}: "
                f"{category})."
            )
        words, patterns = (_texts(fields.get(n, ()), category) for n in ("words", "patterns"))
        listed[category] = detectors.Words(words, patterns)
    return detectors.rule(settings.name, listed, _hash(["rule", settings.categories]))


def _texts(given: Any, category: str) -> tuple[str, ...]:
    if (
        not isinstance(given, Sequence)
        or isinstance(given, str)
        or not all(isinstance(text, str) and text.strip() for text in given)
    ):
        raise ValueError(f"words and patterns must be lists of text; got another ({category}).")
    return tuple(given)


def _hash(said: Any) -> str:
    text = json.dumps(said, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
