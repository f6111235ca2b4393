"""Exchanges that a guard judged, and which of them people review, at known probabilities."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import NamedTuple

from alignjax.core import values

BEFORE, ANSWER = "before", "answer"  # what was judged: a prompt, or a prompt with its answer
BLOCKED, UNCERTAIN, ALLOWED, FAILED = "blocked", "uncertain", "allowed", "failed"
STRATA = (BLOCKED, UNCERTAIN, ALLOWED, FAILED)


class Exchange(NamedTuple):
    """A conversation that a guard judged. turns: (role, text). scores: {category: probability}, NaN
    where it could not be told. limits: the thresholds that held. guard: its fingerprint."""

    turns: tuple[tuple[str, str], ...]
    scores: Mapping[str, float]
    limits: Mapping[str, float]
    blocked: bool
    error: str = ""
    language: str = ""
    stage: str = BEFORE
    guard: str = ""

    @property
    def digest(self) -> str:
        """sha256 in hex of the turns."""
        text = json.dumps(self.turns, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def blocking(self) -> list[str]:
        """Categories above their thresholds."""
        return [name for name, limit in self.limits.items() if self.scores.get(name, 0.0) > limit]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Which exchanges are reviewed.

    blocked, uncertain, allowed, failed: the probability that one of them is taken. band: how near a
    threshold is uncertain, in nats of log odds. All are above 0, or what the guard lets through
    unseen could never be estimated.
    """

    blocked: float = 0.2
    uncertain: float = 1.0
    allowed: float = 0.01
    failed: float = 1.0
    band: float = 0.5

    def validate(self) -> None:
        """Raises ValueError where a number breaks a rule."""
        for name in STRATA:
            values.check_number(f"review.{name}", getattr(self, name), above=0, maximum=1)
        values.check_number("review.band", self.band, minimum=0)

    def stratum(self, own: Exchange) -> str:
        """Which kind of exchange it is."""
        if own.error or any(math.isnan(score) for score in own.scores.values()):
            return FAILED
        near = (
            abs(_log_odds(own.scores[name]) - _log_odds(limit)) <= self.band
            for name, limit in own.limits.items()
            if name in own.scores
        )
        if any(near):
            return UNCERTAIN
        return BLOCKED if own.blocked else ALLOWED

    def probability(self, stratum: str) -> float:
        """With which an exchange of a kind is reviewed."""
        return float(getattr(self, stratum))


def _log_odds(probability: float) -> float:
    """The log odds, which are finite where the probability is 0 or 1 to its last digit."""
    kept = min(max(probability, 1e-12), 1 - 1e-12)
    return math.log(kept) - math.log1p(-kept)


class Reviewed(NamedTuple):
    """An exchange that was taken for review. labels: {category: share of raters}, None where none
    has judged it. turns: None where they were not kept, or are purged."""

    id: int
    turns: tuple[tuple[str, str], ...] | None
    language: str
    stage: str
    scores: Mapping[str, float]
    blocked: bool
    stratum: str
    probability: float
    guard: str
    created: float
    labels: Mapping[str, float] | None
