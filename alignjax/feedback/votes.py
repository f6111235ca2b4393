"""Votes on two answers, and the preference that they make together."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

# Votes [R, N] on two answers, 0 or 1 and NaN for a gap -> how likely each is the better one [N, 2].
Aggregate = Callable[[np.ndarray], np.ndarray]


class Vote(NamedTuple):
    """A vote on two answers. better: 0 or 1; None for a tie, or both_bad. chance: of a judge's
    verdict, how likely the first answer is the better one."""

    rater: int
    better: int | None
    both_bad: bool = False
    strength: int | None = None
    chance: float | None = None

    def turned(self) -> "Vote":
        """The vote on the same answers in the other order."""
        return self._replace(
            better=None if self.better is None else 1 - self.better,
            chance=None if self.chance is None else 1 - self.chance,
        )


def shares(said: Sequence[Sequence[Vote]], aggregate: Aggregate) -> np.ndarray:
    """[N], how likely the first answer is the better one by raters' own votes; NaN without.

    A judge's verdict is a probability itself, and none of the votes that are joined here.
    """
    own = [[vote for vote in row if vote.chance is None] for row in said]
    # A rater without a vote here has no weight, and must not keep others from theirs.
    voted = {vote.rater for row in own for vote in row}
    if not voted:
        return np.full(len(own), np.nan)
    numbers = {rater: i for i, rater in enumerate(sorted(voted))}
    votes = np.full((len(numbers), len(own)), np.nan)
    for i, row in enumerate(own):
        for vote in row:
            if vote.better is not None:
                votes[numbers[vote.rater], i] = vote.better
    return aggregate(votes)[:, 0]


def preference(said: Sequence[Vote], share: float) -> float:
    """The mean over votes of how likely the first answer is the better one.

    share: that of all decided votes of raters, from `shares`. A tie is 1/2, a judge's verdict its
    own chance, so that a judge is one vote among others.
    """
    own = [vote for vote in said if vote.chance is None]
    decided = sum(vote.better is not None for vote in own)
    ties = len(own) - decided
    chances = sum(vote.chance for vote in said if vote.chance is not None)
    return float((decided * share if decided else 0.0) + 0.5 * ties + chances) / len(said)
