"""The gated delta rule in chunks and its convolution, against the recurrence token by token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.models import delta_rule
from tests.reference import delta as reference

SIZES = {"keys": 2, "group": 3, "key": 5, "value": 4}


def arguments(time, seed=0, *, strong=False, b=2):
    """fp32 arguments of the rule; `strong` decays range from none to all."""
    rng = np.random.default_rng(seed)
    k, g, h, u = SIZES.values()

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    query, key = normal(b, time, k, h), normal(b, time, k, h)
    key /= np.linalg.norm(key, axis=-1, keepdims=True)
    decay = -np.exp((4.0 if strong else 0.5) * normal(b, time, k, g))
    write = 1 / (1 + np.exp(-normal(b, time, k, g)))
    segments, last = np.ones((b, time), np.int32), np.ones(b, np.int32)
    numbers = (query, key, normal(b, time, k, g, u), write, decay, normal(b, k, g, h, u))
    return numbers, segments, last


def chunked(numbers, segments, last, chunk):
    *tokens, state = numbers
    parts = delta_rule.runs(jnp.asarray(segments), jnp.asarray(last))
    return delta_rule.gated_delta_rule(*tokens, parts, state, chunk=chunk)


def weighed(found, segments):
    """One number of all that a rule gives, without what padding reads."""
    read, state = found
    seen = jnp.where((segments > 0)[..., None, None, None], read, 0.0)
    return jnp.sum(jnp.sin(3.0 * seen)) + jnp.sum(jnp.cos(state))


PAIRS = {
    "one segment": (np.ones((2, 29), int), [1, 1]),
    "goes on in one row, begins in another": (np.ones((2, 29), int), [1, 0]),
    "packed": (np.repeat([[1, 2, 3, 0], [4, 4, 5, 6]], [11, 1, 9, 8], axis=1), [1, 4]),
    "padded left and right": (np.repeat([[0, 1, 1, 0], [0, 0, 2, 2]], [5, 9, 9, 6], 1), [1, 1]),
    "padding within": (np.repeat([[1, 0, 1, 2], [1, 1, 0, 1]], [6, 3, 11, 9], 1), [1, 2]),
    "all padding": (np.zeros((2, 29), int), [1, 0]),
}
KINDS = [f"{kind}, row {number}" for kind in PAIRS for number in range(2)]
SEGMENTS = np.concatenate([segments for segments, _ in PAIRS.values()]).astype(np.int32)
LAST = np.concatenate([last for _, last in PAIRS.values()]).astype(np.int32)


def assert_near(found, want, atol):
    """Row by row."""
    for kind, one, other in zip(KINDS, np.asarray(found), np.asarray(want), strict=True):
        np.testing.assert_allclose(one, other, atol=atol, rtol=1e-5, err_msg=kind)


@pytest.mark.parametrize("chunk", [4, 64])
def test_chunks_and_their_gradients_are_those_of_the_recurrence(chunk):
    segments, last = SEGMENTS, LAST
    numbers, *_ = arguments(29, strong=chunk == 4, b=len(KINDS))

    def both(rule):
        def loss(numbers):
            found = rule(numbers)
            return weighed(found, segments), found

        return jax.jit(jax.grad(loss, has_aux=True))

    slopes, found = both(lambda n: chunked(n, segments, last, chunk))(numbers)
    with jax.enable_x64(True):
        wide = tuple(jnp.asarray(x, jnp.float64) for x in numbers)
        wanted, want = both(lambda n: reference.rule(n, segments, last))(wide)
        wanted, want = jax.tree.map(np.asarray, (wanted, want))
    real = (segments > 0)[..., None, None, None]
    assert_near(np.where(real, found[0], 0), np.where(real, want[0], 0), 5e-6)
    assert_near(found[1], want[1], 5e-6)
    for one, other in zip(slopes, wanted, strict=True):
        assert_near(one, other, 3e-5)
    assert np.abs(wanted[1]).max(axis=(1, 2, 3))[:10].min() > 0.1


@pytest.mark.parametrize("time", [1, 3, 65])
def test_any_length_goes_through_chunks(time):
    numbers, segments, last = arguments(time, seed=time)
    read, state = jax.jit(lambda n: chunked(n, segments, last, delta_rule.CHUNK))(numbers)
    with jax.enable_x64(True):
        wide = tuple(jnp.asarray(x, jnp.float64) for x in numbers)
        want = jax.tree.map(np.asarray, reference.rule(wide, segments, last))
    np.testing.assert_allclose(read, want[0], atol=5e-6)
    np.testing.assert_allclose(state, want[1], atol=5e-6)


def test_a_strong_decay_rounds_away_nothing_behind_it():
    """A difference of sums from the chunk's start would: exp(-2000) takes 1e-4 of what follows."""
    numbers, segments, last = arguments(40)
    query, key, value, write, decay, state = numbers
    decay[:, 3] = -3000.0
    decay[:, 4:] *= 1e-3
    numbers = query, key, value, write, decay, state
    read, _ = chunked(numbers, segments, last, 64)
    with jax.enable_x64(True):
        want = reference.rule(tuple(jnp.asarray(x, jnp.float64) for x in numbers), segments, last)
        want = np.asarray(want[0])
    np.testing.assert_allclose(read, want, atol=3e-5)


def test_keys_that_are_all_alike_are_no_harder():
    """(I + L)^-1 by powers of L would lose all digits here."""
    numbers, segments, last = arguments(64)
    query, key, value, write, decay, state = numbers
    key = key * 1e-2 + key[:, :1]
    key /= np.linalg.norm(key, axis=-1, keepdims=True)
    numbers = query, key, value, 0 * write + 0.999, 1e-3 * decay, state
    found, _ = chunked(numbers, segments, last, 64)
    with jax.enable_x64(True):
        want = reference.rule(tuple(jnp.asarray(x, jnp.float64) for x in numbers), segments, last)
        want = np.asarray(want[0])
    np.testing.assert_allclose(found, want, atol=2e-5)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("taps", [1, 4])
def test_the_convolution_sees_the_last_real_tokens_of_its_segment(taps, whole):
    """whole: without the rows that have padding within, where neighbours are neighbours in time."""
    kept = [n for n, kind in enumerate(KINDS) if not whole or "within" not in kind]
    kept = [n for n in kept if not whole or KINDS[n] != "padded left and right, row 0"]
    segments, last, count = SEGMENTS[kept], LAST[kept], len(kept)
    rng = np.random.default_rng(taps)
    x, weight = rng.normal(size=(count, 29, 6)), rng.normal(size=(6, taps))
    held = rng.normal(size=(count, taps - 1, 6))
    x, weight, held = (a.astype(np.float32) for a in (x, weight, held))
    parts = delta_rule.runs(jnp.asarray(segments), jnp.asarray(last))
    before = [jnp.pad(x, ((0, 0), (taps - 1, 0)), constant_values=n) for n, x in enumerate(parts)]
    assert bool(delta_rule.has_gaps(*before)) != whole
    found, kept = jax.jit(delta_rule.convolve)(x, weight, held, parts)
    want, wanted = reference.convolution(x, weight, held, segments, last)
    real = segments > 0
    np.testing.assert_allclose(np.asarray(found)[real], want[real], atol=5e-6)
    # What belongs to no token of the last segment is never read again, and is zero.
    np.testing.assert_allclose(kept, wanted, atol=1e-6)

    def loss(x, weight, held):
        mixed, kept = delta_rule.convolve(x, weight, held, parts)
        return jnp.sum(jnp.where(real[..., None], jnp.sin(mixed), 0.0)) + jnp.sum(jnp.cos(kept))

    slope = jax.jit(jax.grad(loss))(x, weight, held)
    near = rng.normal(size=x.shape).astype(np.float32) * 1e-2
    moved = loss(x + near, weight, held) - loss(x - near, weight, held)
    np.testing.assert_allclose(2 * np.sum(slope * near), moved, atol=2e-3)


def test_an_inverse_and_its_gradient_are_those_of_the_matrix():
    rng = np.random.default_rng(0)
    lower = np.tril(rng.normal(size=(3, 16, 16)), -1).astype(np.float32) * 0.5
    eye = np.eye(16)
    found = delta_rule.inverse(jnp.asarray(lower))
    np.testing.assert_allclose(found, np.linalg.inv(eye + lower), atol=1e-4)
    slope = jax.grad(lambda x: jnp.sum(jnp.sin(delta_rule.inverse(x))))(jnp.asarray(lower))
    with jax.enable_x64(True):
        wide = jnp.asarray(lower, jnp.float64)
        want = jax.grad(lambda x: jnp.sum(jnp.sin(jnp.linalg.inv(eye + x))))(wide)
        want = np.tril(np.asarray(want), -1)
    np.testing.assert_allclose(slope, want, atol=1e-3 * np.abs(want).max())
