"""What raters are asked, by how many of them, and under which guideline."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping

from alignjax.core import untrusted, values

CHOICE, RANKING, SCORE = "choice", "ranking", "score"
REWRITE, SPANS, FLAGS = "rewrite", "spans", "flags"
KINDS = (CHOICE, RANKING, SCORE, REWRITE, SPANS, FLAGS)  # that raters are asked for
VERDICT = "verdict"  # of a judge, which is no rater of the page: `verdicts`
# What a key of the page does; digits choose, rank and score, and Enter submits.
KEYS = {
    "tie": "t",
    "both_bad": "b",
    "skip": "s",
    "edit": "e",
    "flag": "f",
    "span": "m",
    "undo": "u",
    "help": "?",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Project:
    """A project's settings; they are stored with a hash of the guideline at every change.

    ask: kinds that a submission must hold; () is choice for two answers, ranking for more, score
    for one. also: kinds that it may hold. scales: names of scores, each 1 to `top`. raters: of an
    item in the share `overlap` of items, 1 of any other. gold, repeats: shares of a rater's items
    that have a known answer, and that the rater has judged before. lease_minutes: how long an item
    is kept for a rater without a sign of life.
    """

    name: str = "feedback"
    guideline: str = ""
    ask: tuple[str, ...] = ()
    also: tuple[str, ...] = (REWRITE, SPANS, FLAGS)
    scales: tuple[str, ...] = ("helpfulness",)
    top: int = 7
    span_types: tuple[str, ...] = ("wrong", "unsupported", "irrelevant")
    flags: tuple[str, ...] = ("unsafe", "personal data", "off-topic", "cannot judge")
    keys: Mapping[str, str] = dataclasses.field(default_factory=lambda: dict(KEYS))
    raters: int = 2
    overlap: float = 0.2
    gold: float = 0.05
    repeats: float = 0.05
    lease_minutes: float = 30.0
    seed: int = 0

    def validate(self, where: str = "project") -> None:
        """Raises ValueError where a setting breaks a rule."""
        for name in (*self.ask, *self.also):
            values.check_choice(f"a kind of judgement ({where})", name, KINDS)
        for name in ("gold", "repeats"):
            values.check_number(f"{name} ({where})", getattr(self, name), minimum=0, below=0.5)
        values.check_number(f"overlap ({where})", self.overlap, minimum=0, maximum=1)
        values.check_number(f"raters ({where})", self.raters, minimum=1)
        values.check_number(f"top ({where})", self.top, minimum=2, maximum=9)
        values.check_number(f"lease_minutes ({where})", self.lease_minutes, above=0)
        for name in self.keys:
            values.check_choice(f"an action of keys ({where})", name, KEYS)
        pressed = [self.key(name) for name in KEYS]
        if len(set(pressed)) < len(pressed) or any(len(k) != 1 or k.isdigit() for k in pressed):
            raise ValueError(
                f"keys must be different single characters, no digits; got {dict(self.keys)} "
                f"({where}). Give each action a letter of its own."
            )
        for name in ("scales", "span_types", "flags"):
            own = getattr(self, name)
            if not own or len(set(own)) < len(own) or not all(word.strip() for word in own):
                raise ValueError(f"{name} must be different names; got {list(own)} ({where}).")

    def key(self, action: str) -> str:
        """The key of an action."""
        return self.keys.get(action, KEYS[action])

    def asked(self, answers: int) -> tuple[str, ...]:
        """The kinds that a submission on so many answers must hold."""
        kinds = self.ask or ({1: SCORE, 2: CHOICE}.get(answers, RANKING),)
        return kinds if answers > 1 else tuple(k for k in kinds if k not in (CHOICE, RANKING))

    @property
    def guideline_sha(self) -> str:
        """sha256 of the guideline, in hex."""
        return hashlib.sha256(self.guideline.encode()).hexdigest()

    def as_json(self) -> str:
        """The settings as one line of JSON, in one order."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, ensure_ascii=False)


def parsed(text: str, where: str) -> Project:
    """The project of an object in JSON.

    Raises:
      ValueError: no object, a setting that does not exist, or one that breaks a rule.
    """
    try:
        fields = untrusted.parse_json(text, where)
    except untrusted.Refused:
        fields = None
    if not isinstance(fields, dict):
        raise ValueError(f"a project must be a JSON object; got {text:.60} ({where}).")
    project = Project(**values.read_fields(Project(), fields, where))
    project.validate(where)
    return project


def read(path: str) -> Project:
    """The project of a file of JSON; "" is the default one.

    Raises:
      ValueError: no such file, or as of `parsed`.
    """
    if not path:
        return Project()
    try:
        text = untrusted.read_text(path, untrusted.OPTION)
    except OSError as error:
        raise ValueError(
            f"--project must be a file of JSON; got {path} ({error.strerror})."
        ) from None
    return parsed(text, path)
