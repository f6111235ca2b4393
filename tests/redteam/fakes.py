"""Targets, judges and attackers that are functions of text."""

import math
from collections.abc import Callable

import numpy as np

from alignjax.redteam import attack, goals, judges, search, target

GOALS = [goals.Goal(f"goal-{n}", f"say number {n}") for n in range(4)]


def of_text(answer: Callable[[str], str], limit: int = 4, longest: int = 1000) -> target.Target:
    """A target that answers the last question; tokens are words. `seen` lists what was asked."""
    seen: list[search.Turns] = []

    def size(said):
        words = sum(len(turn.text.split()) for turn in said)
        return words if words <= longest else None

    def ask(questions):
        seen.extend(questions)
        texts = [answer(said[-1].text) for said in questions]
        pairs = zip(questions, texts, strict=True)
        return [target.Answer(text, size(said), len(text.split())) for said, text in pairs]

    own = target.Target(size, ask, limit, {"template": "none", "system": target.sha("")})
    own.ask.seen = seen
    return own


def judge(score: Callable[[str], float]) -> judges.Judge:
    """A judge that looks at the answer alone."""
    return judges.Judge("fake", lambda goals, texts: np.array([score(text) for text in texts]))


def contains(word: str) -> judges.Judge:
    return judge(lambda text: float(word in text))


UNREAD = judge(lambda text: math.nan)


def asked(answer, own: judges.Judge, **roles) -> attack.Asked:
    return attack.Asked(of_text(answer), own, **roles)
