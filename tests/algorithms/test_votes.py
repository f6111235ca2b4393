"""Columns preference and weight of a batch of pairs reach the gradients of whole models."""

import jax
import numpy as np
import pytest

from alignjax.models import transformer
from alignjax.training import update
from tests.training import tiny

METHODS = [("reward", {"centering": 0.01}), ("dpo", {}), ("dpo", {"method": "ipo"})]


def ready(name, options):
    """(algorithm, moved params, frozen): at the start margins are zero or rounding."""
    model = transformer.transformer(tiny.shape())
    algorithm, state, frozen, _ = tiny.ready(name, model, **options)
    leaves, tree = jax.tree.flatten(state.params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [
        x + 0.1 * jax.random.normal(k, x.shape, x.dtype) for x, k in zip(leaves, keys, strict=True)
    ]
    return algorithm, jax.tree.unflatten(tree, moved), frozen


def gradients(algorithm, params, frozen, batch, micro_batches=1):
    batch = {name: jax.numpy.asarray(x) for name, x in batch.items()}
    if algorithm.annotate:
        batch |= jax.jit(algorithm.annotate)(frozen, batch)
    run = jax.jit(update.make_gradients(algorithm.loss, micro_batches=micro_batches))
    return run(params, frozen, batch, jax.random.key(0))


def close(one, two):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        size = max(1.0, float(np.max(np.abs(a))))
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * size)


@pytest.mark.parametrize(("name", "options"), METHODS)
def test_a_pair_of_three_votes_and_one_has_the_gradient_of_four_pairs(name, options):
    algorithm, params, frozen = ready(name, options)
    pair = tiny.batch(name, 0, 1)
    soft = {
        **pair, "preference": np.array([[0.75]], np.float32), "weight": np.array([4.0], np.float32)
    }  # fmt: skip
    apart = {n: np.concatenate([x, x, x, x[:, ::-1]]) for n, x in pair.items()}
    one, votes = (gradients(algorithm, params, frozen, b) for b in (soft, apart))
    close(one[0], votes[0])
    assert max(float(np.abs(x).max()) for x in jax.tree.leaves(one[0])) > 1e-3
    for metric in ("accuracy", *([name] if name == "dpo" and not options else [])):
        np.testing.assert_allclose(one[1][metric].value, votes[1][metric].value, rtol=1e-5)


@pytest.mark.parametrize(("name", "options"), METHODS)
def test_micro_batches_of_uneven_weight_change_no_gradient(name, options):
    algorithm, params, frozen = ready(name, options)
    rng = np.random.default_rng(0)
    batch = tiny.batch(name, 0, 4) | {
        "preference": rng.uniform(0.5, 1, (4, 1)).astype(np.float32),
        "weight": np.array([1, 7, 2, 0.5], np.float32),
    }
    whole, parts = (gradients(algorithm, params, frozen, batch, n) for n in (1, 4))
    close(whole[0], parts[0])
    for metric, value in whole[1].items():
        np.testing.assert_allclose(value.value, parts[1][metric].value, rtol=1e-4, atol=1e-6)


def test_every_comparison_of_a_row_has_the_rows_weight():
    """Three answers and two comparisons a row, of weights 2 and 1, are rows repeated twice."""
    algorithm, params, frozen = ready("dpo", {})
    rows = tiny.rows(0, 2, 3) | {
        "preferred": np.array([[[0, 1], [1, 2]]] * 2, np.int32),
        "pair_mask": np.ones((2, 2), bool),
    }
    weighed = gradients(algorithm, params, frozen, {**rows, "weight": np.array([2, 1], np.float32)})
    repeated = {name: np.concatenate([x[:1], x]) for name, x in rows.items()}
    close(weighed[0], gradients(algorithm, params, frozen, repeated)[0])
