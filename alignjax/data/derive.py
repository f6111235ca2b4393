"""Tables derived from tables of pairs: single answers, and rankings of two."""

import numpy as np

from alignjax.data import tables

ROWS = ("tokens", "loss_mask", "segments", "positions")


def comparisons(pairs: tables.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, better answer, worse answer), each [M], of the M comparisons of a table of pairs."""
    if "preferred" not in pairs:
        rows = np.arange(len(pairs["tokens"]))
        return rows, np.zeros_like(rows), np.ones_like(rows)
    mask = np.asarray(pairs.get("pair_mask", np.ones(pairs["preferred"].shape[:2], bool)))
    rows, numbers = np.nonzero(mask)
    better, worse = pairs["preferred"][rows, numbers].T
    return rows, better, worse


def unpaired(pairs: tables.Table) -> tables.Table:
    """Single answers: of each comparison the better one as desirable, the worse as undesirable."""
    rows, better, worse = comparisons(pairs)
    rows, answers = np.repeat(rows, 2), np.stack([better, worse], axis=1).reshape(-1)
    desirable = np.tile([True, False], len(rows) // 2)
    return {**{name: pairs[name][rows, answers] for name in ROWS}, "desirable": desirable}


def rankings(pairs: tables.Table) -> tables.Table:
    """Rankings of two: the better answer of each comparison at rank 0, the worse at rank 1."""
    rows, better, worse = comparisons(pairs)
    both = np.stack([better, worse], axis=1)
    return {
        **{name: pairs[name][rows[:, None], both] for name in ROWS},
        "ranks": np.tile(np.array([0, 1], np.float32), (len(rows), 1)),
        "answer_mask": np.ones((len(rows), 2), bool),
    }
