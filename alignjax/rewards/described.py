"""Judges as objects of JSON describe them: which model, template, rubric or rule, and a hash of it.

{"kind": "local" | "remote" | "rubric" | "rule", "name": ..., and the settings of the kind}. A
setting that a kind does not have is refused by name, before anything is asked.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import string
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from alignjax.core import shapes, values
from alignjax.rewards import functions, judge, option_judge, remote_judge

LOCAL, REMOTE, RUBRIC, RULE = "local", "remote", "rubric", "rule"
QUESTION = (
    "A request and an answer to it.\n\nRequest: {prompt}\n\nAnswer: {answer}\n\nQuestion: "
    "{question} Say yes or no.\n\nThe answer to the question is "
)
PAIR_FIELDS, QUESTION_FIELDS = ("prompt", "first", "second"), ("prompt", "answer", "question")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What every judge has. name: it stands in the database, with the start of the hash."""

    kind: str = ""
    name: str = "judge"

    def validate(self, where: str) -> None:
        """Raises ValueError where a setting breaks a rule."""
        if not self.name.strip() or len(self.name) > 100 or not self.name.isprintable():
            raise ValueError(
                f"name must be 1 to 100 printable characters; got {self.name!r:.60} ({where})."
            )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    # Settings on which no verdict depends.
    FREE: ClassVar[tuple[str, ...]] = ("name",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked(Settings):
    """A judge that reads a template and answers with one of two options."""

    template: str = option_judge.PAIR
    options: tuple[str, ...] = ("1", "2")

    def validate(self, where: str) -> None:
        super().validate(where)
        check_template("template", self.template, PAIR_FIELDS, where)
        check_options(self.options, where)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Local(Asked):
    """A language model of ours: a run's policy, or open weights with their tokenizer.

    rows, length: of a batch, in tokens; a prompt that is longer can't be read.
    """

    workdir: str = ""
    best: bool = False
    model: str = ""
    rows: int = 8
    length: int = 1024

    # The weights count, not where they lie.
    FREE: ClassVar[tuple[str, ...]] = ("name", "rows", "workdir", "model")

    def validate(self, where: str) -> None:
        super().validate(where)
        if bool(self.workdir) == bool(self.model):
            raise ValueError(
                f"workdir or model must be given, and not both ({where}). Name a run's folder, or "
                "one of open weights."
            )
        if self.workdir and not pathlib.Path(self.workdir).is_dir():
            raise ValueError(
                f"workdir must be the folder of a run; got {self.workdir!r} ({where})."
            )
        if self.model and not pathlib.Path(self.model).exists():
            raise ValueError(f"model must be there; got {self.model!r} ({where}).")
        if self.best and self.model:
            raise ValueError(f"best must come with workdir; got model ({where}). Drop one.")
        shapes.check_number(f"rows ({where})", self.rows, minimum=1)
        shapes.check_number(f"length ({where})", self.length, minimum=2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remote(Asked):
    """A model behind an OpenAI-compatible address, up to /v1.

    key: name of the environment variable with the address's key; "" sends none.
    """

    address: str = ""
    model: str = ""
    key: str = ""
    timeout_s: float = 60.0  # for a request
    retries: int = 3
    seed: int = 0

    FREE: ClassVar[tuple[str, ...]] = ("name", "key", "timeout_s", "retries")

    def validate(self, where: str) -> None:
        super().validate(where)
        remote_judge.check_address(self.address)
        if not self.model:
            raise ValueError(f"model must be a name that the address knows; got '' ({where}).")
        if self.key and not os.environ.get(self.key):
            raise ValueError(
                f"key must name an environment variable that is set; got {self.key!r} ({where})."
            )
        shapes.check_number(f"timeout_s ({where})", self.timeout_s, above=0)
        shapes.check_number(f"retries ({where})", self.retries, minimum=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rubric(Settings):
    """Weighted questions, answered yes or no. items: {question: weight}. asks: who answers, as an
    object of kind local or remote without a template and options."""

    items: Mapping[str, float] = dataclasses.field(default_factory=dict)
    asks: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    template: str = QUESTION
    options: tuple[str, ...] = ("yes", "no")

    def validate(self, where: str) -> None:
        super().validate(where)
        check_template("template", self.template, QUESTION_FIELDS, where)
        check_options(self.options, where)
        if not self.items:
            raise ValueError(f"items must have a question at least; got none ({where}). Add one.")
        for question, weight in self.items.items():
            shapes.check_number(f"the weight of {question!r} ({where})", weight, above=0)
        for name in ("template", "options"):
            if name in self.asks:
                raise ValueError(
                    f"asks must leave {name} to the rubric; got one ({where}). Move it beside asks."
                )
        self.asked(where)

    def asked(self, where: str = "judge") -> "Local | Remote":
        """Who answers the questions."""
        found = of_fields(self.asks, f"asks of {where}")
        if not isinstance(found, Local | Remote):
            raise ValueError(f"asks must be of kind local or remote; got {found.kind} ({where}).")
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule(Settings):
    """A function of a file, FILE.py:name: (answers, [{"prompt"}]) -> scores, whose difference is
    the logit; nan where it can't tell. position: logits added for standing first."""

    path: str = ""
    position: float = 0.0

    FREE: ClassVar[tuple[str, ...]] = ("name", "path")  # the file's text counts

    def validate(self, where: str) -> None:
        super().validate(where)
        functions.load(self.path)
        shapes.check_number(f"position ({where})", self.position)


KINDS: Mapping[str, type[Settings]] = {LOCAL: Local, REMOTE: Remote, RUBRIC: Rubric, RULE: Rule}


def check_template(name: str, template: str, fields: Sequence[str], where: str) -> None:
    """Raises ValueError unless a template has exactly these fields in braces."""
    try:
        parts = string.Formatter().parse(template)
        found = {field for _, field, _, _ in parts if field is not None}
        template.format(**dict.fromkeys(fields, ""))
    except (ValueError, KeyError, IndexError, AttributeError):
        found = {"braces that are no field, which are written {{ and }}"}
    if found != set(fields):
        raise ValueError(
            f"{name} must hold {', '.join(fields)} in braces; got "
            f"{', '.join(sorted(found)) or 'none'} ({where})."
        )


def check_options(options: Sequence[str], where: str) -> None:
    """Raises ValueError unless there are two different texts."""
    if len(options) != 2 or len(set(options)) < 2 or not all(o.strip() for o in options):
        raise ValueError(f"options must be two different texts; got {list(options)} ({where}).")


def of_fields(fields: Any, where: str) -> Settings:
    """The settings of an object.

    Raises:
      ValueError: no object, an unknown kind or setting, or one that breaks a rule.
    """
    if not isinstance(fields, Mapping):
        raise ValueError(f"a judge must be a JSON object; got {fields!r:.60} ({where}).")
    kind = values.check_choice(f"kind ({where})", fields.get("kind", ""), KINDS)
    own = KINDS[kind](**values.read_fields(KINDS[kind](), fields, where))
    own.validate(where)
    return own


def read(path: str, name: str = "--judge") -> Settings:
    """The settings of a file of JSON; name: of the option that names it.

    Raises:
      ValueError: no such file, or as of `of_fields`.
    """
    try:
        fields = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"{name} must be a file of JSON; got {path!r} ({error.strerror}). Describe a judge."
        ) from None
    except (ValueError, RecursionError):
        raise ValueError(f"{name} must be a file of JSON; got another ({path}).") from None
    return of_fields(fields, path)


def fingerprint(settings: Settings, content: str) -> str:
    """sha256 in hex of all on which verdicts depend.

    content: a hash of weights, or of a rule's file.
    """
    said = {k: v for k, v in dataclasses.asdict(settings).items() if k not in settings.FREE}
    if isinstance(settings, Rubric):
        said["asks"] = fingerprint(settings.asked(), content)
    text = json.dumps([said, content], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def rule_judge(settings: Rule) -> tuple[judge.Judge, str]:
    """A rule's judge, and a hash of its file."""
    score = functions.load(settings.path)

    def scores(prompts: judge.Texts, answers: judge.Texts) -> np.ndarray:
        return np.asarray(score(list(answers), [{"prompt": p} for p in prompts]), np.float64)

    source = pathlib.Path(settings.path.rpartition(":")[0]).read_bytes()
    name = settings.path.rpartition(":")[2]
    own = judge.rule(settings.name, scores, position=settings.position)
    return own, f"{hashlib.sha256(source).hexdigest()}:{name}"


def post_of(settings: Remote) -> remote_judge.Post:
    """Posts to the address; a request that it refuses for itself is unread, any other fault ends
    the command: an address that is down has said nothing of any answer.

    Raises:
      ValueError: from the function: nobody answers, or the key is refused.
    """
    post = remote_judge.poster(
        settings.address, token=os.environ.get(settings.key, "") if settings.key else "",
        timeout_s=settings.timeout_s, retries=settings.retries,
    )  # fmt: skip

    def ask(body: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            return post(body)
        except remote_judge.Unanswered as error:
            if error.status in remote_judge.REFUSED:
                raise
            raise ValueError(
                f"a judge's address must answer; got {error}. What was judged is stored, and the "
                "same command goes on from there."
            ) from None

    return ask


def remote_of(settings: Remote, rubric: Rubric | None = None) -> judge.Judge:
    """A remote judge of pairs, or of a rubric whose questions it answers."""
    post = post_of(settings)
    if rubric is None:
        return remote_judge.remote(
            post, settings.model, name=settings.name, template=settings.template,
            options=two(settings.options), seed=settings.seed,
        )  # fmt: skip
    ask = remote_judge.asker(
        post, settings.model, template=rubric.template, options=two(rubric.options),
        cache={}, seed=settings.seed,
    )  # fmt: skip
    return judge.rubric(rubric.name, ask, list(rubric.items.items()))


def two(options: Sequence[str]) -> tuple[str, str]:
    """The two options."""
    return options[0], options[1]
