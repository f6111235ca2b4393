"""What solutions are compared by: a reward model of whole answers, or of their steps."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.data import step_ends
from alignjax.models import model as models
from alignjax.rewards import learned, process
from alignjax.search import solutions


class Scorer(NamedTuple):
    """score: Rows -> [B], larger is better: of steps the log-probability in nats, of answers the
    head's number. by_step: whether unfinished answers have a score of their own."""

    score: Callable[[solutions.Rows], np.ndarray]
    by_step: bool

    def weights(self, scores: np.ndarray) -> np.ndarray:
        """Scores as weights of votes in [0, 1]: probabilities of steps, the sigmoid of a head."""
        scores = np.asarray(scores, np.float64)
        if self.by_step:
            return np.exp(scores)
        return 0.5 * (1.0 + np.tanh(0.5 * scores))


def of_answers(model: models.Model, params: Any, *, rows: int) -> Scorer:
    """A reward model's head at the last token. params: bound. rows: scored at once."""
    score = learned.make_score(model)
    return Scorer(lambda own: solutions.scores(score, params, own, rows), by_step=False)


def of_steps(
    model: models.Model,
    params: Any,
    ends: step_ends.StepEnds,
    *,
    eos: int | Sequence[int],
    rows: int,
    how: str = process.PRODUCT,
) -> Scorer:
    """A process reward model's steps, joined. params: bound. ends, eos: of the answers."""
    score = process.make_score(model, ends, eos=eos, how=how)
    return Scorer(lambda own: solutions.scores(score, params, own, rows), by_step=True)
