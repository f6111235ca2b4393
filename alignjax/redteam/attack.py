"""Runs attacks: asks what their steps want, at most so many tokens a goal, and judges the answers.

All goals are asked together, so that a batch is full; each has a budget of its own. A question is
sent only where it and the longest answer still fit, so that attacks are compared at what they may
spend, not at how often they ask.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from alignjax.redteam import goals as goal_files
from alignjax.redteam import judges, search, target

Attacker = Callable[[Sequence[search.Turns]], list[str]]
Topic = Callable[[Sequence[str], Sequence[str]], Sequence[float]]  # (goals, questions) -> [0, 1]
Keep = Callable[["Attempt"], None]


class Attempt(NamedTuple):
    """A question that the target answered. number: from 1, of its goal and attack. spent: tokens of
    the goal's budget up to and with this one. score: the judge's; NaN where unread."""

    attack: str
    goal: str
    number: int
    note: str
    turns: search.Turns
    answer: str
    score: float
    refusal: bool
    tokens: int
    spent: int

    @property
    def is_hit(self) -> bool:
        return self.score >= search.HIT


@dataclasses.dataclass
class Outcome:
    """What an attack did. goals: names of all that were attacked. counted: what was not sent, not
    read, or said by an attacker in vain, by name. keep: takes every attempt as soon as it is
    judged."""

    attack: str
    goals: tuple[str, ...]
    exchangeable: bool
    budget: int
    attempts: list[Attempt] = dataclasses.field(default_factory=list)
    counted: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    keep: Keep = dataclasses.field(default=lambda attempt: None, repr=False, compare=False)

    @property
    def tokens(self) -> int:
        """That the target read and wrote."""
        return sum(attempt.tokens for attempt in self.attempts)


@dataclasses.dataclass
class _Course:
    """A goal's search under way."""

    goal: goal_files.Goal
    state: Any
    replies: list[search.Reply] = dataclasses.field(default_factory=list)
    asks: list[search.Ask] = dataclasses.field(default_factory=list)
    spent: int = 0
    number: int = 0
    ended: bool = False


class Asked(NamedTuple):
    """Who answers: the target, the judge of its answers, and of some attacks an attacker and who
    says whether a question is still the goal's."""

    target: target.Target
    judge: judges.Judge
    attacker: Attacker | None = None
    topic: Topic | None = None


def run(
    own: search.Attack,
    goals: Sequence[goal_files.Goal],
    asked: Asked,
    *,
    budget: int,
    seed: int = 0,
    log: Callable[[str], None] = lambda line: None,
    keep: Keep = lambda attempt: None,
) -> Outcome:
    """An attack on all goals, each until it ends or its budget of target tokens is spent."""
    names = tuple(goal.name for goal in goals)
    found = Outcome(own.name, names, own.exchangeable, budget, keep=keep)
    courses = [_Course(goal, own.start(goal, seed)) for goal in goals]
    while live := [course for course in courses if not course.ended]:
        for course in live:
            course.state, course.asks = own.step(course.state, course.replies)
            course.ended = not course.asks
            course.replies = [search.Reply(sent=False)] * len(course.asks)
        before = len(found.attempts)
        _ask_target(live, asked, found)
        _ask_others(live, asked, found)
        if len(found.attempts) > before:
            hits = len({attempt.goal for attempt in found.attempts if attempt.is_hit})
            log(f"{own.name}: {len(found.attempts)} asked, {hits} of {len(goals)} goals hit")
    for course in courses:
        found.counted.update(own.counts(course.state))
    return found


def _ask_target(live: Sequence[_Course], asked: Asked, found: Outcome) -> None:
    """Asks what a budget is sure to hold, and then what answers shorter than feared leave room
    for."""
    waiting = [
        (c, place) for c in live for place, ask in enumerate(c.asks) if ask.to == search.TARGET
    ]
    while waiting:
        sent, waiting = _affordable(waiting, asked.target, found)
        if not sent:
            return
        answers = asked.target.ask([course.asks[place].turns for course, place in sent])
        answered = [(*w, a) for w, a in zip(sent, answers, strict=True) if a is not None]
        found.counted["not taken"] += len(sent) - len(answered)
        if answered:
            goals, texts = [c.goal.text for c, *_ in answered], [a.text for *_, a in answered]
            told = asked.judge.score(goals, texts)
            for (course, place, answer), score in zip(answered, told, strict=True):
                _note(course, place, answer, float(score), found)


_Places = list[tuple[_Course, int]]


def _affordable(waiting: _Places, own: target.Target, found: Outcome) -> tuple[_Places, _Places]:
    """(questions that fit even if all answers are long, those that may fit later). A course whose
    next question can't be paid any more has ended."""
    sent: _Places = []
    later: _Places = []
    planned: dict[int, int] = {}
    for course, place in waiting:
        size = own.size(course.asks[place].turns)
        if size is None:
            found.counted["not sent"] += 1
            continue
        cost = size + own.limit
        before = planned.get(id(course), course.spent)
        if course.spent + cost > found.budget:
            course.ended = True
        elif before + cost > found.budget:
            later.append((course, place))
        else:
            planned[id(course)] = before + cost
            sent.append((course, place))
    return sent, later


def _note(course: _Course, place: int, answer: target.Answer, score: float, found: Outcome) -> None:
    """Writes an answer down, and gives it to the search."""
    ask, tokens = course.asks[place], answer.read + answer.written
    course.spent += tokens
    course.number += 1
    found.counted["unread"] += math.isnan(score)
    attempt = Attempt(
        found.attack, course.goal.name, course.number, ask.note, ask.turns, answer.text, score,
        judges.is_refusal(answer.text), tokens, course.spent,
    )  # fmt: skip
    found.attempts.append(attempt)
    found.keep(attempt)
    course.replies[place] = search.Reply(answer.text, score)


def ask_once(
    goal: goal_files.Goal, ask: search.Ask, asked: Asked, outcome: Outcome, *, spent: int
) -> None:
    """Asks the target one question, for which so many tokens were spent before."""
    course = _Course(goal, None, asks=[ask], replies=[search.Reply(sent=False)])
    if asked.target.size(ask.turns) is None:
        outcome.counted["not sent"] += 1
        return
    (answer,) = asked.target.ask([ask.turns])
    if answer is None:
        outcome.counted["not taken"] += 1
        return
    score = float(asked.judge.score([goal.text], [answer.text])[0])
    _note(course, 0, answer._replace(read=answer.read + spent), score, outcome)


def _ask_others(live: Sequence[_Course], asked: Asked, found: Outcome) -> None:
    """Asks the attacker, and whether questions are still the goal's."""
    places: Mapping[str, list[tuple[_Course, int]]] = {
        role: [(c, i) for c in live for i, ask in enumerate(c.asks) if ask.to == role]
        for role in (search.ATTACKER, search.TOPIC)
    }
    if wanted := places[search.ATTACKER]:
        if asked.attacker is None:
            raise ValueError(f"{found.attack} must have an attacker; got none. Give --attacker.")
        texts = asked.attacker([course.asks[place].turns for course, place in wanted])
        found.counted["attacker asked"] += len(wanted)
        for (course, place), text in zip(wanted, texts, strict=True):
            course.replies[place] = search.Reply(text)
    if wanted := places[search.TOPIC]:
        if asked.topic is None:
            raise ValueError(f"{found.attack} must have a judge of topics; got none (attack).")
        goals = [course.goal.text for course, _ in wanted]
        questions = [course.asks[place].turns[-1].text for course, place in wanted]
        for (course, place), score in zip(wanted, asked.topic(goals, questions), strict=True):
            found.counted["topic unread"] += math.isnan(score)
            course.replies[place] = search.Reply(score=float(score))
