"""Judges as objects of JSON describe them: which model, template, rubric or rule, and a hash of it.

{"kind": "local", "remote", "rubric", "generative", "constitution", "facts" or "rule", "name": ...,
and the settings of the kind}. A setting that a kind does not have is refused by name, before
anything is asked.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from alignjax.core import shapes, untrusted, values
from alignjax.data import retrieval
from alignjax.rewards import constitution, facts, functions, generative_judge, judge
from alignjax.rewards import judge_settings as models

LOCAL, REMOTE, RUBRIC, RULE = models.LOCAL, models.REMOTE, "rubric", "rule"
GENERATIVE, CONSTITUTION, FACTS = "generative", "constitution", "facts"
QUESTION = (
    "A request and an answer to it.\n\nRequest: {prompt}\n\nAnswer: {answer}\n\nQuestion: "
    "{question} Say yes or no.\n\nThe answer to the question is "
)
VERIFY = (
    "Passages:\n\n{prompt}\n\nStatement: {answer}\n\n{question} Say yes or no, by the passages "
    "alone.\n\nThe answer is "
)
SILENT = ("I don't know", "I do not know", "I'm not sure", "I am not sure")
Settings = models.Settings
check_template, check_options, two = models.check_template, models.check_options, models.two


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asking(Settings):
    """A judge that asks a model. asks: an object of kind local or remote."""

    asks: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    # Settings of the model that are the judge's own.
    OWN: ClassVar[tuple[str, ...]] = ("template", "options")

    def validate(self, where: str) -> None:
        super().validate(where)
        for name in self.OWN:
            if name in self.asks:
                raise ValueError(
                    f"asks must leave {name} to the judge; got one ({where}). Move it beside asks."
                )
        self.asked(where)

    def content(self) -> str:
        """A hash of the file that it reads; "" for one that reads none."""
        return ""

    def asked(self, where: str = "judge") -> models.Local | models.Remote:
        """Who answers."""
        return models.model_of_fields(self.asks, f"asks of {where}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rubric(Asking):
    """Weighted questions, answered yes or no. items: {question: weight}."""

    items: Mapping[str, float] = dataclasses.field(default_factory=dict)
    template: str = QUESTION
    options: tuple[str, ...] = ("yes", "no")

    def validate(self, where: str) -> None:
        check_template("template", self.template, models.QUESTION_FIELDS, where)
        check_options(self.options, where)
        if not self.items:
            raise ValueError(f"items must have a question at least; got none ({where}). Add one.")
        for question, weight in self.items.items():
            shapes.check_number(f"the weight of {question!r} ({where})", weight, above=0)
        super().validate(where)

    def build(self, asker: models.Asker | None) -> judge.Judge:
        assert asker is not None
        ask = asker.ask(self.template, two(self.options))
        return judge.rubric(self.name, ask, list(self.items.items()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generative(Asking):
    """A model that writes a critique of both answers and then its verdict.

    template: with {prompt}, {first} and {second}. options: the verdicts for either; tie: for none;
    marker: what stands before the verdict in the last line.
    """

    template: str = generative_judge.TEMPLATE
    options: tuple[str, ...] = ("1", "2")
    tie: str = "tie"
    marker: str = generative_judge.MARKER
    max_new_tokens: int = 256

    def validate(self, where: str) -> None:
        check_template("template", self.template, models.PAIR_FIELDS, where)
        check_options(self.options, where)
        if not self.marker.strip() or self.tie in self.options:
            raise ValueError(
                f"marker and tie must be texts of their own; got {self.marker!r} and {self.tie!r} "
                f"({where})."
            )
        shapes.check_number(f"max_new_tokens ({where})", self.max_new_tokens, minimum=1)
        super().validate(where)

    def build(self, asker: models.Asker | None) -> judge.Judge:
        assert asker is not None
        return generative_judge.generative(
            asker.write(self.max_new_tokens), name=self.name, template=self.template,
            options=two(self.options), tie=self.tie, marker=self.marker,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constitution(Asking):
    """A model that compares each pair by one principle of a file, drawn by the seed and the pair.

    path: the file. asks may have a template and options, as a judge of its own.
    """

    path: str = ""
    seed: int = 0

    FREE: ClassVar[tuple[str, ...]] = ("name", "path")  # the file's text counts
    OWN: ClassVar[tuple[str, ...]] = ()

    def validate(self, where: str) -> None:
        constitution.read(self.path)
        shapes.check_number(f"seed ({where})", self.seed, minimum=0)
        super().validate(where)

    def build(self, asker: models.Asker | None) -> judge.Judge:
        own = self.asked().build(asker)._replace(name=self.name)
        return constitution.judged(own, constitution.read(self.path), seed=self.seed)

    def content(self) -> str:
        return hash_of(self.path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts(Asking):
    """The share of true statements, each looked up in documents and verified by a model.

    documents: file of text, or JSONL of {"title", "text"}. passages: of a statement. abstentions:
    texts, one of which a sentence holds that claims nothing. penalty: of a false statement.
    """

    documents: str = ""
    passages: int = 3
    template: str = VERIFY
    options: tuple[str, ...] = ("yes", "no")
    question: str = facts.QUESTION
    abstentions: tuple[str, ...] = SILENT
    penalty: float = 1.0

    FREE: ClassVar[tuple[str, ...]] = ("name", "documents")  # the file's text counts

    def validate(self, where: str) -> None:
        check_template("template", self.template, models.QUESTION_FIELDS, where)
        check_options(self.options, where)
        shapes.check_number(f"passages ({where})", self.passages, minimum=1)
        shapes.check_number(f"penalty ({where})", self.penalty, minimum=0)
        retrieval.check_installed(f"a judge of facts ({where})")
        retrieval.read(self.documents)
        super().validate(where)

    def build(self, asker: models.Asker | None) -> judge.Judge:
        assert asker is not None
        find = retrieval.index(retrieval.read(self.documents), count=self.passages)
        verify = facts.asked(asker.ask(self.template, two(self.options)), self.question)
        checker = facts.Checker(facts.sentences(self.abstentions), find, verify)
        return facts.compared(self.name, checker, penalty=self.penalty)

    def content(self) -> str:
        return hash_of(self.documents)


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

    def build(self, asker: models.Asker | None) -> judge.Judge:
        return rule_judge(self)[0]


KINDS: Mapping[str, type[Settings]] = {
    **models.MODELS, RUBRIC: Rubric, GENERATIVE: Generative, CONSTITUTION: Constitution,
    FACTS: Facts, RULE: Rule,
}  # fmt: skip


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
        fields = untrusted.read_json(path, untrusted.OPTION)
    except OSError as error:
        raise ValueError(
            f"{name} must be a file of JSON; got {path!r} ({error.strerror}). Describe a judge."
        ) from None
    except untrusted.Refused as error:
        raise ValueError(f"{name} must be a file of JSON; got another: {error}") from None
    return of_fields(fields, path)


def fingerprint(settings: Settings, content: str) -> str:
    """sha256 in hex of all on which verdicts depend.

    content: a hash of weights, or of a rule's file.
    """
    said = {k: v for k, v in dataclasses.asdict(settings).items() if k not in settings.FREE}
    if isinstance(settings, Asking):
        said["asks"] = fingerprint(settings.asked(), content)
        content = settings.content() or content
    text = json.dumps([said, content], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def hash_of(path: str) -> str:
    """sha256 in hex of a file."""
    return untrusted.digest(path)


def rule_judge(settings: Rule) -> tuple[judge.Judge, str]:
    """A rule's judge, and a hash of its file."""
    score = functions.load(settings.path)

    def scores(prompts: judge.Texts, answers: judge.Texts) -> np.ndarray:
        return np.asarray(score(list(answers), [{"prompt": p} for p in prompts]), np.float64)

    file, _, name = settings.path.rpartition(":")
    own = judge.rule(settings.name, scores, position=settings.position)
    return own, f"{hash_of(file)}:{name}"
