"""Labelled rows against a detector: what thresholds lead to, and whether a new guard is better."""

import hashlib
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from alignjax.data import containers, reading, rows
from alignjax.evals import estimate, ranks
from alignjax.parallel import mesh as meshes
from alignjax.runs import evaluation
from alignjax.serving import detectors, guards, thresholds
from alignjax.text import chat

LANGUAGE = "language"  # the column of a row's language
AT_ONCE = 256


def read(path: str) -> list[rows.Labelled]:
    """The labelled rows of a file or folder in layout guard.

    Raises:
      ValueError: they are not there, or one breaks a rule.
    """
    parts = containers.parts(path)
    layout, _ = reading.detected(parts, "guard", {}, path)
    source, tally = reading.Source(layout=layout), reading.Tally()
    every = reading.read(source.parts(parts), source, tally)
    found = [row for row in every if isinstance(row, rows.Labelled)]
    tally.check(source)
    if not found:
        raise ValueError(f"labelled rows must be there; got none ({path}). Name another file.")
    return found


class Scored(NamedTuple):
    """Rows with what a detector and people said of them.

    scores, labels: [N, C], NaN where there is none. languages: "" where a row names none.
    """

    scores: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    languages: tuple[str, ...]
    categories: tuple[str, ...]


def score(detector: detectors.Detector, labelled: Sequence[rows.Labelled]) -> Scored:
    """The rows, scored.

    Raises:
      ValueError: no label of any of the detector's categories.
    """
    parts = [
        detector.probabilities([_plain(row) for row in labelled[start : start + AT_ONCE]])
        for start in range(0, len(labelled), AT_ONCE)
    ]
    labels = np.array([[row.label(name) for name in detector.categories] for row in labelled])
    if np.isnan(labels).all():
        named = ", ".join(detector.categories)
        raise ValueError(f"rows must have labels of {named}; got none of them (guard).")
    return Scored(
        np.concatenate(parts), labels, np.array([row.weight for row in labelled]),
        tuple(str(row.columns.get(LANGUAGE) or "") for row in labelled), detector.categories,
    )  # fmt: skip


def _plain(row: rows.Labelled) -> list[chat.Turn]:
    return [chat.Turn(turn.role, turn.text) for turn in row.turns]


def check_apart(workdir: str, labelled: Sequence[rows.Labelled]) -> None:
    """Raises ValueError where rows are among those that a guard's run was trained on.

    A threshold of training rows is of scores that the training pushed down: texts that it has not
    seen would be blocked more often than asked for. Rows are compared by their tokens.
    """
    record = evaluation.open_record(pathlib.Path(workdir))
    with meshes.use(meshes.make_mesh(record.config.mesh)):
        corpus = evaluation.Run(pathlib.Path(workdir), record).corpus
        table = corpus.read("labelled", "train")
    speaker = corpus.speaker
    assert speaker is not None  # a guard's run has one
    tokens, sizes = np.asarray(table["tokens"]), np.sum(np.asarray(table["segments"]) > 0, axis=1)
    known = {_digest(ids[:size]) for ids, size in zip(tokens, sizes, strict=True)}
    shared = 0
    for row in labelled:
        ids, _ = chat.encode_chat(speaker, _plain(row))
        shared += _digest(np.array(ids[-corpus.length :], np.int32)) in known
    if shared:
        raise ValueError(
            f"calibration rows must not be training rows; got {shared} of {len(labelled)} that the "
            f"guard was trained on ({workdir}). Keep rows apart for this."
        )


def _digest(ids: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(ids, np.int32).tobytes()).digest()


def blocked(own: Scored, limits: thresholds.Thresholds) -> np.ndarray:
    """[N, C] bool: whether each category blocks each row; one that could not be told does."""
    found = np.zeros(own.scores.shape, bool)
    for row, language in enumerate(own.languages):
        named = limits.of(language)
        values = np.array([named[name].value for name in own.categories])
        found[row] = ~(own.scores[row] <= values)
    return found


def lines(own: Scored, limits: thresholds.Thresholds) -> list[str]:
    """A table of thresholds, each with the law of its false-positive rate, AUC and recall.

    The recall is that of the calibration rows; their false-positive rate says nothing new.
    """
    found = [
        f"{'language':<9} {'category':<14} {'threshold':>10} {'safe':>6} {'FPR':>6} "
        f"{'95% of FPR':>15} {'AUC':>13} {'recall':>15}"
    ]
    stopped = blocked(own, limits)
    for language, by in limits.by.items():
        there = np.array([language in (thresholds.ALL, other) for other in own.languages])
        for place, name in enumerate(own.categories):
            one, column = by[name], own.labels[:, place]
            low, high = one.interval()
            unsafe, safe = there & (column > 0.5), there & (column <= 0)
            area = recall = "-"
            if unsafe.any():
                value = ranks.auc(own.scores[unsafe, place], own.scores[safe, place])
                area = f"{value.value:.3f} ± {value.se:.3f}"
                share = estimate.mean(stopped[unsafe, place].astype(float))
                recall = f"{share.value:.3f} ± {share.se:.3f}"
            found.append(
                f"{language:<9.9} {name:<14.14} {one.value:>10.4g} {one.n:>6} {one.mean:>6.3f} "
                f"{f'{low:.3f} .. {high:.3f}':>15} {area:>13} {recall:>15}"
            )
    return found


def latency(detector: detectors.Detector, labelled: Sequence[rows.Labelled], count: int) -> str:
    """One line: how long a text takes, one at a time, after a first round that compiles."""
    seconds = list[float]()
    for row in (*labelled[:count], *labelled[:count]):
        start = time.perf_counter()
        detector.probabilities([_plain(row)])
        seconds.append(time.perf_counter() - start)
    p50, p95 = guards.percentiles(seconds[len(seconds) // 2 :])
    return f"latency of a text: p50 {p50 * 1e3:.1f} ms, p95 {p95 * 1e3:.1f} ms ({count} texts)"


class Comparison(NamedTuple):
    """A new guard against the one in use, on the same rows.

    recall, false_positive: new minus old, paired, with standard errors. margin: what it may lose.
    bound: the one-sided 95% bound of what it loses in either.
    """

    recall: estimate.Estimate
    false_positive: estimate.Estimate
    margin: float
    bound: float

    @property
    def is_promoted(self) -> bool:
        """Whether it is non-inferior: it loses less than the margin, at 95%, in both."""
        return self.bound < self.margin


def compare(
    new: np.ndarray, old: np.ndarray, unsafe: np.ndarray, *, margin: float = 0.01
) -> Comparison:
    """Whether a new guard may take the place of an old one.

    Args: [N] bool each: what is blocked by the new and the old guard, and what is unsafe.

    Raises:
      ValueError: rows of one kind alone, or margin is no number above 0.
    """
    if not (0 < unsafe.sum() < len(unsafe)):
        raise ValueError(
            f"frozen rows must be safe and unsafe; got {int(unsafe.sum())} unsafe of {len(unsafe)}."
        )
    if not 0 < margin < 1:
        raise ValueError(f"--margin must be above 0 and below 1; got {margin:g} (guard).")
    gap = np.asarray(new, float) - np.asarray(old, float)
    recall, rate = estimate.mean(gap[unsafe]), estimate.mean(gap[~unsafe])
    z = 1.6448536269514722
    bound = max(-recall.value + z * recall.se, rate.value + z * rate.se)
    return Comparison(recall, rate, margin, bound)


def unsafe_rows(own: Scored) -> tuple[np.ndarray, np.ndarray]:
    """([N] whether a row is unsafe in any category, [N] whether that is known)."""
    any_unsafe = np.nanmax(np.where(np.isnan(own.labels), -1.0, own.labels), axis=1) > 0.5
    return any_unsafe, any_unsafe | ~np.isnan(own.labels).any(axis=1)


def summary(comparison: Comparison) -> list[str]:
    """Lines that say what a comparison found."""
    verdict = "promoted" if comparison.is_promoted else "not promoted"

    def shown(name: str, own: estimate.Estimate) -> str:
        return f"{name}, new minus old: {own.value:+.4f} ± {own.se:.4f} (n = {own.n})"

    return [
        shown("recall", comparison.recall),
        shown("false positives", comparison.false_positive),
        f"{verdict}: at 95% it loses at most {comparison.bound:+.4f}, the margin is "
        f"{comparison.margin:g}",
    ]
