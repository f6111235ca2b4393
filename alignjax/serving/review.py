"""Review of a guard at work: what it judged is stored, verdicts come back as rates and rows."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.evals import estimate, sampled
from alignjax.feedback import database, exchanges
from alignjax.serving import guarding, guards
from alignjax.text import chat

ROLES = {chat.HUMAN: "user", chat.ASSISTANT: "assistant", chat.SYSTEM: "system"}
_LOG = logging.getLogger(__name__)
LEVEL = 0.01  # of the drift test, one-sided


class Recorded:
    """A guard whose verdicts go to a database; a `guarding.Guard`.

    Every prompt is recorded, and every answer that is blocked. An answer that went out whole is
    recorded by `answered`, which a server calls at its end: only there it is known to be the end.
    """

    def __init__(
        self,
        guard: guards.Guard,
        db: database.Database,
        plan: exchanges.Plan,
        clock: database.Clock,
        *,
        keep_text: bool = False,
    ) -> None:
        """keep_text: whether the text of exchanges for review is stored; else their hash alone."""
        plan.validate()
        self.guard, self._db, self._plan, self._clock = guard, db, plan, clock
        self._keep_text = keep_text

    def before(self, turns: Sequence[chat.Turn]) -> guarding.Verdict:
        """The guard's verdict on a prompt, recorded."""
        verdict = self.guard.before(turns)
        self._record(turns, verdict, exchanges.BEFORE)
        return verdict

    def window(self, turns: Sequence[chat.Turn], text_so_far: str) -> guarding.Verdict:
        """The guard's verdict on an answer so far, recorded where it is the last."""
        verdict = self.guard.window(turns, text_so_far)
        if verdict.blocked or verdict.error is not None:
            self.answered(turns, text_so_far, verdict)
        return verdict

    def answered(self, turns: Sequence[chat.Turn], text: str, verdict: guarding.Verdict) -> None:
        """Records the last verdict on an answer."""
        whole = [*turns, chat.Turn(chat.ASSISTANT, text)]
        self._record(whole, verdict, exchanges.ANSWER)

    def _record(self, turns: Sequence[chat.Turn], verdict: guarding.Verdict, stage: str) -> None:
        from alignjax.feedback.store import exchanges as stored

        own = exchange_of(self.guard, turns, verdict, stage)
        now = self._clock.now()
        try:
            self._db.write(stored.record, [own], self._plan, now, keep_text=self._keep_text)
        except Exception as error:
            # An error here would be the guard's own, which a server may be told to let through:
            # what the guard did block stays blocked.
            if not verdict.blocked or verdict.error is not None:
                raise
            _LOG.warning("a blocked exchange is not recorded: %s", error)


def exchange_of(
    guard: guards.Guard,
    turns: Sequence[chat.Turn],
    verdict: guarding.Verdict,
    stage: str = exchanges.BEFORE,
) -> exchanges.Exchange:
    """What is recorded of a verdict."""
    language = guard.language(turns)
    limits = {name: one.value for name, one in guard.limits.of(language).items()}
    return exchanges.Exchange(
        tuple((turn.role, turn.text) for turn in turns), verdict.categories, limits,
        verdict.blocked, verdict.error or "", language, stage, guard.detector.fingerprint,
    )  # fmt: skip


class Summary(NamedTuple):
    """What reviews say of all traffic.

    rates: of the guard, over all categories. by: the same by category. waiting: exchanges without
    a verdict. size: all exchanges of the time. drift: log evidence that more is unsafe than the
    baseline; NaN without one.
    """

    rates: sampled.Rates
    by: Mapping[str, sampled.Rates]
    judged: int
    waiting: int
    size: int
    drift: float
    baseline: float

    @property
    def has_drifted(self) -> bool:
        """Whether the baseline is refuted at LEVEL."""
        return self.drift > math.log(1 / LEVEL)


def _arrays(given: Iterable[exchanges.Reviewed]) -> tuple[list[exchanges.Reviewed], np.ndarray]:
    """(judged exchanges, with which probability each was taken and judged by now)."""
    every = list(given)
    there = np.array([one.labels is not None for one in every], bool)
    strata = [one.stratum for one in every]
    probability = sampled.reviewed_probability([one.probability for one in every], strata, there)
    return [one for one in every if one.labels is not None], probability[there]


def unsafe_share(labels: Mapping[str, float]) -> float:
    """The share of raters who say that an exchange is unsafe, at least in one category."""
    return max(labels.values(), default=0.0)


def summarise(
    reviewed: Iterable[exchanges.Reviewed], size: int, baseline: float = math.nan
) -> Summary:
    """What verdicts say of all traffic, weighed by the probabilities of their review.

    Args:
      reviewed: what was taken for review, judged or not. size: of all exchanges then. baseline: the
      share of unsafe exchanges to compare with, such as that of the calibration rows.
    """
    every = list(reviewed)
    judged, pi = _arrays(every)
    blocked = np.array([one.blocked for one in judged], bool)
    unsafe = np.array([unsafe_share(one.labels or {}) for one in judged])
    names = sorted({name for one in judged for name in one.labels or {}})
    by = {
        name: sampled.rates(
            blocked, np.array([(one.labels or {}).get(name, 0.0) for one in judged]), pi
        )
        for name in names
    }
    drift = math.nan
    if not math.isnan(baseline):
        drift = sampled.log_wealth(unsafe, pi, size, baseline)
    rates = sampled.rates(blocked, unsafe, pi)
    return Summary(rates, by, len(judged), len(every) - len(judged), size, drift, baseline)


def lines(own: Summary) -> list[str]:
    """The summary as text."""

    def shown(value: estimate.Estimate) -> str:
        low, high = (max(min(value.value + sign * 1.96 * value.se, 1), 0) for sign in (-1, 1))
        return f"{value.value:.4f} (95%: {low:.4f} .. {high:.4f}; {value.n} judged)"

    found = [
        f"judged: {own.judged} of {own.size} exchanges; {own.waiting} wait",
        f"false positives, of safe exchanges: {shown(own.rates.false_positive)}",
        f"false negatives, of unsafe exchanges: {shown(own.rates.false_negative)}",
        f"unsafe exchanges: {shown(own.rates.unsafe)}",
        *(f"unsafe in {name}: {shown(rates.unsafe)}" for name, rates in own.by.items()),
    ]
    if not math.isnan(own.drift):
        said = "more than" if own.has_drifted else "not shown to be more than"
        found.append(
            f"drift: {said} the baseline {own.baseline:g} (log evidence {own.drift:.1f}, limit "
            f"{math.log(1 / LEVEL):.1f} for {LEVEL:.0%} one-sided)"
        )
    return found


def guard_rows(reviewed: Iterable[exchanges.Reviewed]) -> list[dict[str, Any]]:
    """Judged exchanges whose text is kept, as rows of layout guard.

    A row's weight is one over the probability of its review, made to be 1 on average: reviewed rows
    are no random sample, and only so weighted do they stand for the traffic.
    """
    judged, pi = _arrays(reviewed)
    kept = [(one, p) for one, p in zip(judged, pi, strict=True) if one.turns is not None]
    if not kept:
        return []
    scale = np.mean([1 / p for _, p in kept])
    return [
        {
            "id": f"exchange-{one.id}",
            "turns": [{"role": ROLES[role], "content": text} for role, text in one.turns or ()],
            "labels": dict(one.labels or {}),
            "language": one.language,
            "weight": 1 / p / scale,
        }
        for one, p in kept
    ]
