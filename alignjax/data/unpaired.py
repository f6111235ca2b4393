"""Columns of tables of single answers that depend on all rows of the table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alignjax.data import lazy, tables

Columns = Mapping[str, Any]
ROWS = ("tokens", "loss_mask", "segments", "positions")
MISMATCHED = "mismatched_"  # prefix of columns that pair a prompt with another row's answer


def mismatched(table: Columns) -> dict[str, np.ndarray]:
    """Each row's prompt with the answer of the row after it, [N, T], under MISMATCHED names.

    The prompt is the tokens before a row's first target. Rows are paired in the order of the table,
    so that the columns do not depend on batches.

    Raises:
      ValueError: there is one row alone.
    """
    count, length = table["tokens"].shape
    if count < 2:
        raise ValueError(
            "unpaired answers must be at least 2, to pair each prompt with another's answer; got "
            f"{count} (data)."
        )
    if lazy.is_lazy(table["tokens"]):
        return lazy.table_of(_Mismatched(table, count))
    rows = np.arange(count)
    return _joined(table, rows, np.roll(rows, -1), length)


class _Mismatched:
    """The same columns, read by row; a `lazy.Source`."""

    def __init__(self, table: Columns, rows: int):
        self._table = {name: table[name] for name in ROWS}
        self.rows = rows
        shapes = {n: lazy.Shape(tuple(x.shape[1:]), x.dtype) for n, x in self._table.items()}
        self.shapes = {f"{MISMATCHED}{name}": shape for name, shape in shapes.items()}

    def read(self, rows: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns of rows."""
        both = tables.take(self._table, np.concatenate([rows, (rows + 1) % self.rows]))
        own, other = np.arange(len(rows)), np.arange(len(rows), 2 * len(rows))
        found = _joined(both, own, other, both["tokens"].shape[1])
        return {name: found[name] for name in names}


def _joined(
    table: Columns, rows: np.ndarray, other: np.ndarray, length: int
) -> dict[str, np.ndarray]:
    """The prompts of `rows` with the answers of the rows `other`."""
    first = np.argmax(table["loss_mask"], axis=1)[:, None]
    starts, others = first[rows], first[other]
    slot = np.arange(length)[None]
    source = slot - starts + others
    inside = (slot >= starts) & (source < length)
    source = np.clip(source, 0, length - 1)

    def joined(name: str, own_prompt: np.ndarray) -> np.ndarray:
        answers = np.take_along_axis(table[name][other], source, axis=1)
        return np.where(slot < starts, own_prompt[rows], np.where(inside, answers, 0))

    real = joined("segments", table["segments"]) > 0
    nothing = np.zeros_like(table["loss_mask"])
    return {
        f"{MISMATCHED}tokens": joined("tokens", table["tokens"]).astype(np.int32),
        f"{MISMATCHED}loss_mask": joined("loss_mask", nothing).astype(bool) & real,
        f"{MISMATCHED}segments": real.astype(np.int32),
        f"{MISMATCHED}positions": np.where(real, slot, 0).astype(np.int32),
    }


def class_weights(desirable: np.ndarray) -> tuple[float, float]:
    """(w_D, w_U) with w_D n_D = w_U n_U; the weight of the larger class is 1."""
    good = float(np.sum(desirable))
    bad = float(len(desirable) - good)
    if not good or not bad:
        return 1.0, 1.0
    return max(bad / good, 1.0), max(good / bad, 1.0)


def desirable_probability(states: np.ndarray, desirable: np.ndarray) -> np.ndarray:
    """[N]: p(desirable | prompt) by a logistic regression on standardised states [N, D].

    The penalty is |w|^2 / 2 beside the sum over rows, the default of scikit-learn.
    Reference: Jung et al. 2024, section 5.
    """
    import scipy.optimize

    states = states.astype(np.float64)
    states = (states - states.mean(axis=0)) / np.maximum(states.std(axis=0), 1e-6)
    x = np.concatenate([states, np.ones((len(states), 1))], axis=1)
    sign = np.where(desirable, 1.0, -1.0)
    counted = np.append(np.ones(states.shape[1]), 0.0)  # not the intercept

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (x @ w)
        value = np.logaddexp(0.0, -margin).sum() + 0.5 * counted @ w**2
        pull = -sign * np.exp(-np.logaddexp(0.0, margin))
        return value, x.T @ pull + counted * w

    start = np.zeros(x.shape[1])
    fit = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B")
    return (1.0 / (1.0 + np.exp(-(x @ fit.x)))).astype(np.float32)
