"""Batches as a function of (seed, step), and tables read in order."""

import numpy as np
import pytest

from alignjax.data import pipeline


def table(rows):
    return {"tokens": np.arange(rows * 3).reshape(rows, 3), "id": np.arange(rows)}


def stream(rows, batch, seed, steps):
    batches = pipeline.Batches(table(rows), batch_size=batch, seed=seed)
    return [batches.batch(k) for k in range(steps)]


def test_a_batch_depends_on_seed_and_step_alone():
    ahead = stream(10, 4, 3, 9)
    fresh = pipeline.Batches(table(10), batch_size=4, seed=3)
    for k in (8, 0, 5, 2, 8):  # any order, across epochs, twice
        np.testing.assert_array_equal(fresh.batch(k)["id"], ahead[k]["id"])
    other = stream(10, 4, 4, 9)
    assert any((a["id"] != b["id"]).any() for a, b in zip(ahead, other, strict=True))


@pytest.mark.parametrize(("rows", "batch"), [(10, 4), (7, 7), (3, 8), (5, 1)])
def test_every_epoch_is_a_permutation_and_no_row_is_dropped(rows, batch):
    ids = np.concatenate([b["id"] for b in stream(rows, batch, 0, 3 * rows)])
    epochs = ids[: len(ids) // rows * rows].reshape(-1, rows)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(rows), (3 * batch, 1)))
    assert len({tuple(e) for e in epochs}) > 1  # a new order each epoch


def test_rows_of_all_columns_stay_together():
    for batch in stream(10, 4, 0, 5):
        np.testing.assert_array_equal(batch["tokens"][:, 0], 3 * batch["id"])
        assert batch["tokens"].shape == (4, 3)


@pytest.mark.parametrize(("rows", "batch"), [(10, 4), (8, 4), (3, 8)])
def test_in_order_covers_every_row_once_in_one_shape(rows, batch):
    parts = list(pipeline.in_order(table(rows), batch))
    assert {b["tokens"].shape for b, _ in parts} == {(batch, 3)}
    np.testing.assert_array_equal(
        np.concatenate([b["id"][:real] for b, real in parts]), np.arange(rows)
    )
    assert sum(real for _, real in parts) == rows
    last, real = parts[-1]
    assert (last["id"][real:] == 0).all()


def test_errors():
    with pytest.raises(ValueError, match=r"equal lengths; got \{'a': 2, 'b': 3\}"):
        pipeline.Batches({"a": np.zeros(2), "b": np.zeros(3)}, batch_size=1, seed=0)
    with pytest.raises(ValueError, match="must have rows; got none"):
        pipeline.Batches({"a": np.zeros(0)}, batch_size=1, seed=0)
    with pytest.raises(ValueError, match=r"loop\.batch_size must be >= 1; got 0"):
        pipeline.Batches(table(2), batch_size=0, seed=0)
