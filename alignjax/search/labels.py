"""Labels of steps by rollouts: how often an answer that goes on from a step comes out right."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from alignjax.core import shapes, values
from alignjax.search import solutions

SOFT, HARD = "soft", "hard"
LABELS = (SOFT, HARD)
# (rows, the number of each row's question [B]) -> [B] bool, whether its answer is right.
IsRight = Callable[[solutions.Rows, np.ndarray], np.ndarray]


class Labelled(NamedTuple):
    """labels: [B, T], at the ends of steps, 0 elsewhere. outcome: [B] bool, whether the answer
    itself is right. tokens: sampled for the labels."""

    labels: np.ndarray
    outcome: np.ndarray
    tokens: int


def by_rollouts(
    draw: solutions.Draw,
    rows: solutions.Rows,
    ends: np.ndarray,
    owner: np.ndarray,
    is_right: IsRight,
    *,
    rollouts: int = 8,
    kind: str = SOFT,
    round: int = 1,
) -> Labelled:
    """A label for each step: of R answers that go on behind it, the share that is right (soft), or
    whether any is (hard).

    The last step of an answer that has ended is followed by nothing: its label is whether the
    answer is right.

    Args:
      draw: completes prompts; a beginning of an answer is one. rows: B answers. ends: [B, T] bool,
        where their steps end. owner: [B], the number of each row's question. rollouts: R. round: of
        the draws, another than that of the answers.

    Raises:
      ValueError: no rollouts, or no such kind.

    Reference: Wang et al. 2024 (Math-Shepherd), arXiv 2312.08935, equations 3 and 4.
    """
    shapes.check_number("--rollouts", rollouts, minimum=1)
    values.check_choice("--labels", kind, LABELS)
    outcome = np.asarray(is_right(rows, owner), bool)
    labels = np.zeros(ends.shape, np.float64)
    slot = np.arange(ends.shape[1])
    last = np.where(ends, slot, -1).max(axis=1)
    whole = rows.ended & (last >= 0)
    labels[whole, last[whole]] = outcome[whole]
    own, place = np.nonzero(ends & ~(whole[:, None] & (slot == last[:, None])))
    if not len(own):
        return Labelled(labels, outcome, 0)
    wide, until = np.repeat(own, rollouts), np.repeat(place, rollouts) + 1
    begun = np.where(slot < until[:, None], rows.tokens[wide], 0).astype(np.int32)
    drawn = draw(begun, until.astype(np.int32), round)
    spent = int(np.sum(drawn.lengths - drawn.prompt_lengths))
    answers = drawn._replace(prompt_lengths=rows.prompt_lengths[wide])
    right = np.asarray(is_right(answers, owner[wide]), np.float64).reshape(-1, rollouts)
    labels[own, place] = right.mean(axis=1) if kind == SOFT else right.max(axis=1)
    return Labelled(labels, outcome, spent)


def steps_of(
    rows: solutions.Rows, ends: np.ndarray, row: int, text: Callable[[np.ndarray], str]
) -> list[str]:
    """The steps of an answer as texts, without the line breaks at their ends.

    What stands behind the last step, of an answer that was cut, belongs to none.
    """
    places = np.flatnonzero(ends[row])
    starts = [int(rows.prompt_lengths[row]), *(int(place) + 1 for place in places[:-1])]
    pairs = zip(starts, places, strict=True)
    return [text(rows.tokens[row, start : end + 1]).strip("\n") for start, end in pairs]
