"""Judges of a database: what their two orders tell of them, and their agreement with people."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from alignjax.evals import estimate, judging
from alignjax.feedback import agreement, content, payloads, project, verdicts
from alignjax.feedback import report as reports
from alignjax.feedback.store import items, queries
from alignjax.rewards import judge

Unit = tuple[str, int, int]  # an item, and two of its answers by number
Report = dict[str, Any]
ONE, TWO, TIE, BOTH_BAD = 0.0, 1.0, 2.0, 3.0  # what is said of a unit
INTERVALS = ("raw", "people_raw", "kappa", "people_kappa")


def report(
    judged: Iterable[queries.Judged],
    item_of: Callable[[str], content.Item],
    raters: Mapping[int, queries.Rater],
) -> list[Report]:
    """What is known of each judge with verdicts, as JSON has it.

    flips, first, position: of all pairs that it read, as in `judging`. beside people: its agreement
    with people and simulated raters beside their own, on every two answers that both judged, in
    choices and in rankings. Items with a known answer tell only whether it is right.
    """
    live = [own for own in judged if own.is_live and not own.repeat]
    said = [own for own in live if own.kind == project.VERDICT]
    people = _people([own for own in live if not own.is_gold], raters)
    judges = sorted({own.rater for own in said})
    return [
        _judge(raters[rater], [own for own in said if own.rater == rater], item_of, people)
        for rater in judges
    ]


def units(kind: str, said: Mapping[str, Any], answers: int) -> dict[tuple[int, int], float]:
    """What a choice or ranking says of every two answers; {} of other judgements.

    The best of several beat all others, of which nothing is said; an answer without a rank lost to
    those with one.
    """
    pairs = verdicts.pairs_of(answers)
    if kind == project.CHOICE:
        chosen = said["chosen"]
        if chosen is None:
            both_bad = said["choice"] == payloads.BOTH_BAD
            return dict.fromkeys(pairs, BOTH_BAD if both_bad else TIE)
        return {(i, j): ONE if i == chosen else TWO for i, j in pairs if chosen in (i, j)}
    if kind != project.RANKING:
        return {}
    places = [math.inf if rank is None else rank for rank in said["ranks"]]
    return {
        (i, j): TIE if places[i] == places[j] else ONE if places[i] < places[j] else TWO
        for i, j in pairs
        if min(places[i], places[j]) < math.inf
    }


def _people(
    judged: Sequence[queries.Judged], raters: Mapping[int, queries.Rater]
) -> dict[int, dict[Unit, float]]:
    """{rater: what it says of units} of all raters that are no judges."""
    found: dict[int, dict[Unit, float]] = {}
    for own in judged:
        if raters[own.rater].kind == items.JUDGE or own.payload is None:
            continue
        for (i, j), code in units(own.kind, own.payload, len(own.shown)).items():
            found.setdefault(own.rater, {})[own.item, i, j] = code
    return found


def _code(pair: verdicts.Pair) -> float:
    if math.isnan(pair.logit):
        return math.nan
    return TIE if pair.logit == 0 else ONE if pair.logit > 0 else TWO


def _judge(
    rater: queries.Rater,
    judged: Sequence[queries.Judged],
    item_of: Callable[[str], content.Item],
    people: Mapping[int, Mapping[Unit, float]],
) -> Report:
    pairs = {
        (own.item, pair.one, pair.two): pair
        for own in judged
        for pair in verdicts.read(own.payload or {"pairs": []})
    }
    told = judging.report(
        judge.Verdicts(
            np.array([pair.one_first for pair in pairs.values()], np.float64),
            np.array([pair.two_first for pair in pairs.values()], np.float64),
        )
    )
    labels = {unit: _code(pair) for unit, pair in pairs.items()}
    known = [_hits(own, item_of(own.item), labels) for own in judged if own.is_gold]
    right = list(itertools.chain.from_iterable(known))
    return {
        "judge": f"rater-{rater.id}", "name": rater.name, "items": len(judged),
        "pairs": told.pairs, "unread": told.unread, "ties": told.ties,
        "flips": _estimate(told.flips), "first": _estimate(told.first),
        "position": _estimate(told.position), "warnings": list(told.warnings),
        "right on known pairs": (
            agreement.share(sum(right), len(right)).as_dict() if right else None
        ),
        "beside people": _beside(labels, people),
    }  # fmt: skip


def _hits(own: queries.Judged, item: content.Item, labels: Mapping[Unit, float]) -> Iterable[bool]:
    """Whether the judge is right on each pair that it read and whose better answer is known."""
    for kind, right in (item.gold or {}).items():
        for (i, j), code in units(kind, right, len(own.shown)).items():
            label = labels[own.item, i, j]
            if code in (ONE, TWO) and not math.isnan(label):
                yield label == code


def _beside(
    labels: Mapping[Unit, float], people: Mapping[int, Mapping[Unit, float]]
) -> Report | None:
    """Agreement with people beside their own; None where they judged no unit of the judge's."""
    common = [unit for unit in labels if any(unit in own for own in people.values())]
    if not common:
        return None
    table = np.array([[own.get(unit, math.nan) for unit in common] for own in people.values()])
    found = judging.beside_people(np.array([labels[unit] for unit in common]), table)
    return {name: getattr(found, name).as_dict() for name in INTERVALS}


def _estimate(given: estimate.Estimate) -> Report:
    numbers = {"value": given.value, "se": given.se}
    return {**{n: float(x) if math.isfinite(x) else None for n, x in numbers.items()}, "n": given.n}


def lines(found: Sequence[Report]) -> list[str]:
    """Reports in words."""
    told = []
    for own in found:
        told.append(
            f"{own['judge']} (judge {own['name']}): {own['pairs']} pairs of {own['items']} items, "
            f"{own['unread']} verdicts unread, {own['ties']} ties"
        )
        for what, name in (("flips", "flip rate"), ("first", "P(first)"), ("position", "position")):
            unit = " nats" if what == "position" else ""
            value = reports.estimate_text(own[what]["value"], own[what]["se"])
            told.append(f"  {name:<24} {value}{unit}")
        intervals = {"right on known pairs": own["right on known pairs"]}
        for what, value in (own["beside people"] or {}).items():
            kind = what.removeprefix("people_")
            who = "people's own" if kind != what else "with people"
            intervals[f"{kind}, {who}"] = value
        for name, value in intervals.items():
            if value is not None:
                told.append(f"  {name:<24} {reports.interval_text(value)}")
        told += [f"  warning: {warning}" for warning in own["warnings"]]
    return told
