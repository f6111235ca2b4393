"""Accuracies that a reward model must beat: the longer answer, and a bag of words.

Both judge the assistant's words of the two continuations and never see the prompt.
"""

import collections
import collections.abc
import re
import typing

import numpy as np

from alignjax.data import sources
from alignjax.text import chat

_WORD = re.compile(r"[a-z0-9']+|[^\sa-z0-9']")
Rows = collections.abc.Sequence[sources.Preference | chat.Pair]


class Accuracy(typing.NamedTuple):
    """Share of pairs ordered as the labels order them, its standard error, the number of pairs."""

    accuracy: float
    standard_error: float
    n: int


def longer_answer_accuracy(rows: Rows) -> Accuracy:
    """Returns the accuracy of "the answer with more characters is better"; a tie counts half."""
    lengths = [(len(_answer(row.chosen)), len(_answer(row.rejected))) for row in rows]
    return _accuracy(np.array([chosen - rejected for chosen, rejected in lengths], np.float64))


def bag_of_words_accuracy(
    train_rows: Rows, eval_rows: Rows, *, vocabulary_size: int = 4000, l2: float = 0.02
) -> Accuracy:
    """Returns the accuracy on eval_rows of a Bradley-Terry model that is linear in word counts.

    x = log(1 + counts of chosen) - log(1 + counts of rejected); the weights w minimise
    mean_i log(1 + exp(-w . x_i)) + l2/2 |w|^2 over train_rows (Bradley and Terry 1952).
    Without an intercept, so that swapping the sides swaps the verdict.

    Args:
      vocabulary_size: most frequent words of train_rows that count; ties alphabetically.
      l2: weight of the penalty, > 0.
    """
    if l2 <= 0:
        raise ValueError(f"l2 must be positive; got {l2} (bag_of_words_accuracy). Raise it.")
    train = [(_words(row.chosen), _words(row.rejected)) for row in train_rows]
    frequency: collections.Counter[str] = collections.Counter()
    for chosen, rejected in train:
        frequency.update(chosen)
        frequency.update(rejected)
    ranked = sorted(frequency, key=lambda word: (-frequency[word], word))[:vocabulary_size]
    column = {word: index for index, word in enumerate(ranked)}
    x = _differences(train, column)

    weights = _fit(x, l2)
    held = [(_words(row.chosen), _words(row.rejected)) for row in eval_rows]
    return _accuracy(_differences(held, column) @ weights)


def _fit(x: typing.Any, l2: float) -> np.ndarray:
    """Returns the weights [words] that minimise the penalised loss; x: sparse [pairs, words]."""
    import scipy.optimize

    def objective(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margins = x @ weights
        value = np.logaddexp(0.0, -margins).mean() + 0.5 * l2 * weights @ weights
        pull = -np.exp(-np.logaddexp(0.0, margins)) / len(margins)  # -sigmoid(-margin) / n
        return value, x.T @ pull + l2 * weights

    start = np.zeros(x.shape[1])
    options = {"maxiter": 500}
    return scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x


def _answer(turns: collections.abc.Sequence[chat.Turn]) -> str:
    return "\n\n".join(turn.text for turn in turns if turn.role == chat.ASSISTANT)


def _words(turns: collections.abc.Sequence[chat.Turn]) -> collections.Counter[str]:
    return collections.Counter(_WORD.findall(_answer(turns).lower()))


def _differences(
    pairs: list[tuple[collections.Counter[str], collections.Counter[str]]], column: dict[str, int]
) -> typing.Any:
    """Returns the sparse [pairs, words] matrix of differences of log(1 + count)."""
    import scipy.sparse

    values, places, bounds = [], [], [0]
    for chosen, rejected in pairs:
        for word in sorted(chosen.keys() | rejected.keys()):
            value = np.log1p(chosen[word]) - np.log1p(rejected[word])
            if value and word in column:
                values.append(value)
                places.append(column[word])
        bounds.append(len(values))
    return scipy.sparse.csr_matrix(
        (np.array(values, np.float64), np.array(places, np.int64), np.array(bounds, np.int64)),
        shape=(len(pairs), len(column)),
    )


def _accuracy(margins: np.ndarray) -> Accuracy:
    """Returns the share of positive margins, ties half, and its standard error."""
    if not len(margins):
        raise ValueError("eval rows must not be empty; got none (baselines). Check the split.")
    scores = (np.sign(margins) + 1) / 2
    return Accuracy(float(scores.mean()), float(scores.std() / np.sqrt(len(scores))), len(scores))
