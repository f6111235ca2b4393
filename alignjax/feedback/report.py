"""What judgements say of raters and of models: agreement, errors, position bias, win rates."""

import collections
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from alignjax.feedback import aggregate, agreement, payloads, position, project, summary
from alignjax.feedback.store import queries

ItemOf = Callable[[str], Any]
Report = dict[str, Any]
TIED = (payloads.TIE, payloads.BOTH_BAD)


def report(
    judged: Iterable[queries.Judged], item_of: ItemOf, raters: Mapping[int, queries.Rater]
) -> Report:
    """{"agreement": by what was judged, "raters": [...], "models": [...]} as JSON has it.

    What judges say in both orders (verdicts) is none of it: `evals.verdicts` reports that.

    Agreement is of first judgements on items that two raters or more judged; items with a known
    answer and repetitions tell of each rater alone.
    """
    live = [own for own in judged if own.is_live and own.kind != project.VERDICT]
    first = [own for own in live if not own.repeat and not own.is_gold]
    found: Report = {}
    for name, triples, metric, labels in (
        ("choice", _choices(first), "nominal", _labels(first)),
        ("ranking", _ranked_pairs(first), "nominal", ("first", "second", "level")),
        *((f"score: {scale}", own, "ordinal", ()) for scale, own in _scores(first).items()),
    ):
        if triples:
            table = agreement.table(triples, labels)
            found[name] = summary.summary(table, metric).as_dict()
    taus = _taus(first)
    if taus:
        found["ranking"]["kendall"] = agreement_of(taus)
    known = _accuracies(first)
    people = [_rater(raters[number], live, item_of, known) for number in sorted(raters)]
    return {
        "agreement": found,
        "raters": [own for own in people if own["judged"]],
        "models": _models(first, item_of),
    }


def agreement_of(values: Sequence[float]) -> Report:
    """A mean over items with its interval."""
    return agreement.bootstrap(
        lambda rows: float(rows[0].mean()), np.array([values, values])
    ).as_dict()


def _name(rater: int) -> str:
    return f"rater-{rater}"


def _said(own: queries.Judged) -> Any:
    assert own.payload is not None
    return own.payload


def _choice(own: queries.Judged) -> str:
    said = _said(own)
    return said["choice"] if said["choice"] in TIED else f"answer {said['chosen'] + 1}"


def _choices(judged: Sequence[queries.Judged]) -> list[tuple[str, str, str | float]]:
    return [
        (own.item, _name(own.rater), _choice(own)) for own in judged if own.kind == project.CHOICE
    ]


def _labels(judged: Sequence[queries.Judged]) -> tuple[str, ...]:
    size = max((len(own.shown) for own in judged), default=0)
    return (*(f"answer {n + 1}" for n in range(size)), *TIED)


def _ranked_pairs(judged: Sequence[queries.Judged]) -> list[tuple[str, str, str | float]]:
    """Every two answers of a ranking as a unit: which is better."""
    triples: list[tuple[str, str, str | float]] = []
    for own in judged:
        if own.kind != project.RANKING:
            continue
        ranks = [math.inf if rank is None else rank for rank in _said(own)["ranks"]]
        for i, j in itertools.combinations(range(len(ranks)), 2):
            word = "level" if ranks[i] == ranks[j] else "first" if ranks[i] < ranks[j] else "second"
            triples.append((f"{own.item} {i} {j}", _name(own.rater), word))
    return triples


def _taus(judged: Sequence[queries.Judged]) -> list[float]:
    """Of every item that several raters ranked, the mean tau-b over pairs of them."""
    by_item: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    for own in judged:
        if own.kind == project.RANKING and len(own.shown) > 2:
            ranks = [math.nan if rank is None else rank for rank in _said(own)["ranks"]]
            by_item[own.item].append(np.array(ranks, np.float64))
    means = [
        float(agreement.kendall_mean(np.array(rankings)[:, None])[0])
        for rankings in by_item.values()
        if len(rankings) > 1
    ]
    return [mean for mean in means if math.isfinite(mean)]


def _scores(
    judged: Sequence[queries.Judged],
) -> dict[str, list[tuple[str, str, str | float]]]:
    """Triples of each scale; an answer is a unit."""
    found: dict[str, list[tuple[str, str, str | float]]] = collections.defaultdict(list)
    for own in judged:
        if own.kind != project.SCORE:
            continue
        for scale, numbers in _said(own)["scores"].items():
            for n, number in enumerate(numbers):
                if number is not None:
                    found[scale].append((f"{own.item} {n}", _name(own.rater), float(number)))
    return found


def _accuracies(judged: Sequence[queries.Judged]) -> dict[int, Report]:
    """{rater: accuracy on two answers, estimated from agreement alone}; {} for fewer than three."""
    choices = [own for own in judged if own.kind == project.CHOICE and len(own.shown) == 2]
    decided = [own for own in choices if _said(own)["chosen"] is not None]
    numbers = {rater: i for i, rater in enumerate(sorted({own.rater for own in decided}))}
    items = {name: i for i, name in enumerate(dict.fromkeys(own.item for own in decided))}
    votes = np.full((len(numbers), len(items)), np.nan)
    for own in decided:
        votes[numbers[own.rater], items[own.item]] = _said(own)["chosen"]
    if not aggregate.is_enough(votes):
        return {}
    found = aggregate.accuracy_intervals(votes, 2)
    return {rater: found[i].as_dict() for rater, i in numbers.items()}


def _rater(
    rater: queries.Rater,
    live: Sequence[queries.Judged],
    item_of: ItemOf,
    known: Mapping[int, Report],
) -> Report:
    """One rater's numbers; null where nothing tells."""
    own = [one for one in live if one.rater == rater.id]
    choices = [one for one in own if one.kind == project.CHOICE and len(one.shown) == 2]
    bias = position.position_bias(np.array([_side(one) for one in choices], np.float64))
    seconds = [one.seconds for one in own if one.seconds is not None]
    return {
        "rater": _name(rater.id), "kind": rater.kind,
        "judged": len({one.assignment for one in own}),
        "right on known items": _share(_on_gold(own, item_of)),
        "same on repeated items": _share(_on_repeats(own)),
        "estimated accuracy": known.get(rater.id),
        "position bias": _number(bias.value), "position bias se": _number(bias.se),
        "ties": _share([_said(one)["choice"] == payloads.TIE for one in choices]),
        "both bad": _share([_said(one)["choice"] == payloads.BOTH_BAD for one in choices]),
        "seconds": float(np.median(seconds)) if seconds else None,
    }  # fmt: skip


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _share(hits: Sequence[bool]) -> Report | None:
    return agreement.share(sum(hits), len(hits)).as_dict() if hits else None


def _side(own: queries.Judged) -> int:
    return {"first": 1, "second": -1}.get(_said(own)["choice"], 0)


def _same(kind: str, one: Any, two: Any) -> bool:
    """Whether two payloads say the same of the answers, in whichever order these were shown."""
    if kind == project.CHOICE:
        said = [
            (own["chosen"], own["choice"] if own["chosen"] is None else "") for own in (one, two)
        ]
        return said[0] == said[1]
    return bool(one == two)


def _on_gold(own: Sequence[queries.Judged], item_of: ItemOf) -> list[bool]:
    hits = []
    for one in own:
        right = (item_of(one.item).gold or {}) if one.is_gold else {}
        if one.kind in right:
            hits.append(_same(one.kind, right[one.kind], _said(one)))
    return hits


def _on_repeats(own: Sequence[queries.Judged]) -> list[bool]:
    comparable = (project.CHOICE, project.RANKING)
    said = {(o.item, o.kind): _said(o) for o in own if not o.repeat and o.kind in comparable}
    return [
        _same(one.kind, said[one.item, one.kind], _said(one))
        for one in own
        if one.repeat and (one.item, one.kind) in said
    ]


def _models(judged: Sequence[queries.Judged], item_of: ItemOf) -> list[Report]:
    """Win rates of every two models, raw and without position bias."""
    pairs: dict[tuple[str, str], list[tuple[int, bool]]] = collections.defaultdict(list)
    for own in judged:
        if own.kind != project.CHOICE or len(own.shown) != 2:
            continue
        shown = [item_of(own.item).candidates[number].model for number in own.shown]
        if shown[0] != shown[1] and all(shown):
            one, two = sorted(shown)
            pairs[one, two].append((_side(own), shown[0] == one))
    found = []
    for (one, two), given in sorted(pairs.items()):
        choices, first = zip(*given, strict=True)
        rate = position.win_rate(np.array(choices, np.float64), np.array(first))
        numbers = {name: _estimate(value) for name, value in rate._asdict().items()}
        found.append({"model": one, "against": two, "n": len(given), **numbers})
    return found


def _estimate(given: position.Estimate) -> Report:
    return {"value": _number(given.value), "se": _number(given.se), "n": given.n}


def lines(report: Report) -> list[str]:
    """A report in words."""
    told = []
    for name, own in report["agreement"].items():
        told.append(f"{name}: {own['overlapping']} of {own['items']} units have several raters")
        for what in ("raw", "unanimous", "fleiss", "alpha", "kendall"):
            if what in own:
                told.append(f"  {what:<10} {interval_text(own[what])}")
    for own in report["raters"]:
        told.append(f"{own['rater']} ({own['kind']}): {own['judged']} items")
        for what in ("right on known items", "same on repeated items", "estimated accuracy"):
            if own[what] is not None:
                told.append(f"  {what:<24} {interval_text(own[what])}")
        bias = own["position bias"], own["position bias se"]
        told.append(f"  {'position bias':<24} {estimate_text(*bias)}")
    for own in report["models"]:
        told.append(f"{own['model']} against {own['against']}: {own['n']} choices")
        for what in ("win", "corrected_win", "tie", "bias"):
            value = own[what]
            told.append(f"  {what:<24} {estimate_text(value['value'], value['se'])}")
    return told


def interval_text(own: Mapping[str, float | None]) -> str:
    """An interval as JSON has it, in words."""
    if own["value"] is None:
        return "not defined"
    ends = [f"{own[end]:.3f}" if own[end] is not None else "?" for end in ("low", "high")]
    return f"{own['value']:.3f}  [{ends[0]}, {ends[1]}]  n = {own['n']}"


def estimate_text(value: float | None, se: float | None) -> str:
    """An estimate with its standard error, in words."""
    if value is None:
        return "not known"
    return f"{value:.3f}" + ("" if se is None else f" ± {se:.3f}")
