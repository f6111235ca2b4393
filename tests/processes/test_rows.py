"""Rows of one process among others: built alone, put on the mesh, read back."""

import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.data import pipeline
from alignjax.parallel import hosts
from alignjax.rewards import hosted
from alignjax.sampling import generate


@pytest.mark.parametrize("rows", [101, 7])
def test_parts_of_a_batch_are_those_of_the_whole(rows):
    """Also across the end of an epoch, and where a batch is larger than the table."""
    table = {"row": np.arange(rows), "square": np.arange(rows) ** 2}
    owns = [np.arange(4), np.array([4, 5, 9]), np.array([6, 7, 8])]
    whole = pipeline.Batches(table, batch_size=10, seed=3)
    parts = [pipeline.Batches(table, batch_size=10, seed=3, own=own) for own in owns]
    seen = []
    for step in (0, 25, 9, 10, 11):
        expected = whole.batch(step)
        for own, part in zip(owns, parts, strict=True):
            for name, column in part.batch(step).items():
                np.testing.assert_array_equal(column, expected[name][own])
        seen.append(tuple(expected["row"]))
    assert len(set(seen)) == 5


def test_host_arrays_go_onto_any_mesh_and_back(any_mesh):
    values = {"a": np.arange(48).reshape(16, 3), "b": np.arange(16) % 3 == 0}
    own = hosts.own_rows(16)
    np.testing.assert_array_equal(own, np.arange(16))  # of a single process
    for placed in (hosts.to_global(values), hosts.to_global(values, 16)):
        for name, x in placed.items():
            assert x.dtype == jnp.asarray(values[name]).dtype
            assert any_mesh is None or not x.sharding.is_fully_replicated
            np.testing.assert_array_equal(hosts.to_local(x), values[name])
            np.testing.assert_array_equal(hosts.to_host({"x": x})["x"], values[name])


def test_a_reward_on_the_host_sees_rows_and_comes_back_in_place(any_mesh):
    tokens = np.arange(64).reshape(16, 4).astype(np.int32)
    lengths = (1 + np.arange(16) % 4).astype(np.int32)
    placed = hosts.to_global({"tokens": tokens, "lengths": lengths})
    blank = dict.fromkeys(("mask", "logprobs", "prompt_lengths", "ended"))
    samples = generate.Samples(**placed, **blank)
    reward = hosted.hosted(lambda tokens, lengths: tokens.sum(axis=1) / lengths)
    found = reward({}, samples, {})
    assert found.dtype == jnp.float32
    assert any_mesh is None or not found.sharding.is_fully_replicated
    np.testing.assert_allclose(np.asarray(found), tokens.sum(axis=1) / lengths, rtol=1e-6)
