"""Arrays aligned with the tokens that they are about."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.core import struct
from alignjax.models import scoring
from tests.models import tiny
from tests.reference import transformer as reference

MODEL, SEQUENCES = tiny.model(), tiny.sequences([6, 2, 4], seed=1)
CONFIG = tiny.config()


@pytest.fixture(scope="module")
def weights():
    head = np.random.default_rng(5).normal(size=16).astype(np.float32)
    return struct.replace(tiny.params(), scalar=head)


def test_counted_needs_a_predecessor_in_the_same_segment():
    segments = np.array([[1, 1, 2, 2, 2, 0], [0, 0, 1, 1, 1, 1]])
    batch = tiny.batch(np.zeros_like(segments), np.zeros_like(segments), segments)
    np.testing.assert_array_equal(scoring.counted(batch), [[0, 1, 0, 1, 1, 0], [0, 0, 0, 1, 1, 1]])
    answers = {**batch, "loss_mask": jnp.array([[1, 0, 1, 0, 1, 1], [1, 1, 1, 0, 0, 2]])}
    np.testing.assert_array_equal(
        scoring.counted(answers), [[0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1]]
    )


@pytest.mark.parametrize("left", [False, True])
def test_position_t_is_about_token_t(weights, left):
    batch = tiny.batch(*tiny.rows(SEQUENCES, 8, left=left))

    @jax.jit
    def score(weights, batch):
        return (
            scoring.token_stats(MODEL, weights, batch, temperature=0.7).logprob,
            scoring.token_values(MODEL, weights, batch),
            scoring.sequence_scores(MODEL, weights, batch),
        )

    logprobs, values, scores = score(weights, batch)
    assert logprobs.shape == values.shape == (3, 8)
    np.testing.assert_array_equal(logprobs[:, 0], 0)
    for i, sequence in enumerate(SEQUENCES):
        n = len(sequence)
        at = slice(8 - n + 1, 8) if left else slice(1, n)
        z = reference.logits(weights, sequence, CONFIG)[:-1] / 0.7
        want = z[np.arange(n - 1), sequence[1:]] - np.log(np.exp(z).sum(-1))
        np.testing.assert_allclose(logprobs[i, at], want, atol=1e-5)
        states = reference.hidden(weights, sequence, CONFIG) @ weights.scalar
        np.testing.assert_allclose(values[i, at], states[:-1], atol=1e-4)  # the prefix's value
        np.testing.assert_allclose(scores[i], states[-1], atol=1e-4)  # the whole row's score


def test_divergence_of_two_models(weights):
    batch, other = tiny.batch(*tiny.rows(SEQUENCES, 6)), tiny.params(seed=1)

    @jax.jit
    def divergence(params, other):
        hidden = scoring.hidden_states(MODEL, params, batch)
        return scoring.token_divergence(MODEL, params, hidden, other, batch)

    got = divergence(weights, other)
    for i, sequence in enumerate(SEQUENCES):
        p, q = (reference.log_probs(w, sequence, CONFIG)[:-1] for w in (weights, other))
        want = (np.exp(p) * (p - q)).sum(-1)
        np.testing.assert_allclose(got[i, 1 : len(sequence)], want, atol=1e-4)
    np.testing.assert_array_equal(got[:, 0], 0)
    np.testing.assert_array_equal(divergence(weights, weights), 0)


def test_choices_become_rows_in_order():
    batch = {"tokens": jnp.arange(12).reshape(2, 2, 3), "weight": jnp.arange(2)}
    flat = scoring.flatten_choices(batch)
    np.testing.assert_array_equal(flat["tokens"], np.arange(12).reshape(4, 3))
    np.testing.assert_array_equal(flat["weight"], [0, 1])


def test_no_gradient_reaches_the_prompt_s_predictions():
    tokens = np.array([[1, 2, 3, 4, 5, 6]])
    batch = tiny.batch(*tiny.rows(list(tokens), 8), np.array([[0, 0, 0, 1, 1, 0, 1, 1]]))

    def loss(states):
        stats = scoring.stats_of(MODEL, tiny.params(), states, batch["tokens"])
        return -jnp.sum(jnp.where(scoring.counted(batch), stats.logprob, 0.0))

    slopes = jax.jit(jax.grad(loss))(jnp.full((1, 8, 16), 0.1))
    np.testing.assert_array_equal(np.abs(slopes[0]).max(-1) > 0, [0, 0, 1, 1, 0, 0, 0, 0])
