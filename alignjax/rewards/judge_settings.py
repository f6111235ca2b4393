"""Settings of the models that judges ask, as objects of JSON describe them, and how to ask one.

A model of ours or one behind an address: `rewards.described` has the judges that ask them.
"""

import dataclasses
import os
import pathlib
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from alignjax.core import shapes, values
from alignjax.rewards import judge, option_judge, remote_judge

PAIR_FIELDS, QUESTION_FIELDS = ("prompt", "first", "second"), ("prompt", "answer", "question")
Write = Callable[[Sequence[str]], Sequence[str]]  # requests -> answers, "" where there is none


class Asker(NamedTuple):
    """A model that judges ask, opened.

    pair: (name, template, options) -> a judge of pairs by two options' log-probabilities.
    ask: (template, options) -> how it answers a question about an answer.
    write: most new tokens -> how it answers in words, as likely as can be.
    """

    pair: Callable[[str, str, tuple[str, str]], judge.Judge]
    ask: Callable[[str, tuple[str, str]], judge.Ask]
    write: Callable[[int], Write]


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

    def build(self, asker: Asker | None) -> judge.Judge:
        """The judge. asker: the model that it asks; None for one that asks none."""
        raise NotImplementedError

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

    def build(self, asker: Asker | None) -> judge.Judge:
        assert asker is not None
        return asker.pair(self.name, self.template, two(self.options))


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


LOCAL, REMOTE = "local", "remote"
MODELS: Mapping[str, type[Asked]] = {LOCAL: Local, REMOTE: Remote}


def model_of_fields(fields: Any, where: str) -> Local | Remote:
    """Who answers a judge's questions.

    Raises:
      ValueError: no object, another kind, an unknown setting, or one that breaks a rule.
    """
    if not isinstance(fields, Mapping):
        raise ValueError(f"asks must be a JSON object; got {fields!r:.60} ({where}).")
    kind = values.check_choice(f"kind ({where})", fields.get("kind", ""), MODELS)
    own = MODELS[kind](**values.read_fields(MODELS[kind](), fields, where))
    own.validate(where)
    assert isinstance(own, Local | Remote)
    return own


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


def remote_asker(settings: Remote) -> Asker:
    """A model behind an address, opened; equal requests are sent once."""
    post, cache = post_of(settings), dict[str, Any]()

    def pair(name: str, template: str, options: tuple[str, str]) -> judge.Judge:
        return remote_judge.remote(
            post, settings.model, name=name, template=template, options=options, seed=settings.seed
        )

    def ask(template: str, options: tuple[str, str]) -> judge.Ask:
        return remote_judge.asker(
            post, settings.model, template=template, options=options, cache=cache,
            seed=settings.seed,
        )  # fmt: skip

    def write(tokens: int) -> Write:
        return remote_judge.writer(
            post, settings.model, max_tokens=tokens, cache=cache, seed=settings.seed
        )

    return Asker(pair, ask, write)


def two(options: Sequence[str]) -> tuple[str, str]:
    """The two options."""
    return options[0], options[1]
