"""Divergences of two heads in tiles, and a teacher's top entries, against naive float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from alignjax import losses
from alignjax.losses import tiled_divergence
from bench import logprob_memory

B, T, D, E, V = 2, 5, 8, 6, 12
RNG = np.random.default_rng(5)
ARRAYS = tuple(
    (scale * RNG.normal(size=shape)).astype(np.float32)
    for scale, shape in ((0.7, (B, T, D)), (0.6, (D, V)), (0.8, (B, T, E)), (0.8, (E, V)))
)
WEIGHTS = RNG.normal(size=(B, T)).astype(np.float32)
BETAS = (0.0, 0.1, 1.0)
OPTIONS = [
    {"tile": 3, "temperature": 0.7},  # does not divide T
    {"softcap": 2.0, "other_softcap": 0.0},
]


def naive(hidden, matrix, other, other_matrix, *, beta, temperature=1.0, softcap=0.0, **more):
    """By the paper's formula on whole distributions, in the precision of the inputs."""
    caps = softcap, more.get("other_softcap", softcap)
    both = []
    for h, w, cap in zip((hidden, other), (matrix, other_matrix), caps, strict=True):
        z = jnp.einsum("btd,dv->btv", h, w)
        both.append(jax.nn.softmax((cap * jnp.tanh(z / cap) if cap else z) / temperature, axis=-1))
    q, p = both  # the paper's names: p is the teacher
    kl = lambda a, b: jnp.sum(a * (jnp.log(a) - jnp.log(b)), axis=-1)  # noqa: E731
    if beta in (0, 1):
        return kl(q, p) if beta else kl(p, q)
    m = beta * p + (1 - beta) * q
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


@functools.cache
def step(function, options):
    """Jitted arrays -> (gradients of sum(weights values) of the student's two, values)."""

    def total(hidden, matrix, *rest):
        *other, weights = rest
        values = function(hidden, matrix, *other, **dict(options))
        return jnp.sum(weights * values), values

    return jax.jit(jax.grad(total, (0, 1), has_aux=True))


def run(options, arrays=ARRAYS):
    return step(losses.token_divergence, tuple(options.items()))(*arrays, WEIGHTS)


def wide(options, arrays=ARRAYS):
    with jax.enable_x64(True):
        arguments = (jnp.asarray(x, jnp.float64) for x in (*arrays, WEIGHTS))
        return jax.device_get(step(naive, tuple(options.items()))(*arguments))


def near(got, want, tolerance=1e-6):
    """Within the tolerance of the largest entry, or of 1."""
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(1, np.abs(want).max()))


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_values_and_gradients_equal_naive_float64(beta, options):
    (slopes, got), (want_slopes, want) = (f({"beta": beta, **options}) for f in (run, wide))
    assert got.dtype == jnp.float32
    near(got, want)
    for a, b in zip(slopes, want_slopes, strict=True):
        near(a, b)


def test_it_is_the_divergence_of_log_probabilities():
    """The formulas of `losses.distill` on whole distributions: nothing is a second definition."""
    student, teacher = (jax.nn.log_softmax(h @ w, axis=-1) for h, w in (ARRAYS[:2], ARRAYS[2:]))
    for beta in BETAS:
        want = losses.generalised_jsd(student, teacher, beta=beta)
        near(losses.token_divergence(*ARRAYS, beta=beta, tile=2), want)


def test_no_gradient_flows_into_the_teacher():
    for beta in (0.0, 0.5, 1.0):
        slopes = jax.grad(
            lambda *teacher, b=beta: losses.token_divergence(*ARRAYS[:2], *teacher, beta=b).sum(),
            (0, 1),
        )(*ARRAYS[2:])
        assert not any(np.any(x) for x in slopes)


def test_equal_heads_have_no_divergence_and_no_gradient():
    same = (*ARRAYS[:2], *ARRAYS[:2])
    for beta in BETAS:
        slopes, got = run({"beta": beta, **OPTIONS[0]}, same)
        np.testing.assert_allclose(got, 0.0, atol=1e-6)
        assert all(np.abs(x).max() < 1e-6 for x in slopes)


def test_jsd_is_symmetric_at_a_half_and_bounded():
    there, back, hard = (
        losses.token_divergence(*arrays, beta=0.5)
        for arrays in (ARRAYS, (*ARRAYS[2:], *ARRAYS[:2]), tuple(30 * x for x in ARRAYS))
    )
    near(there, back)
    assert np.all(np.asarray(hard) <= np.log(2) + 1e-6)
    assert np.max(hard) > 0.6


def test_jsd_tends_to_the_two_kls():
    """The limits of jsd / beta and jsd / (1 - beta)."""
    small = 3e-4  # the limit is reached as beta log beta
    for beta, end in ((small, 0.0), (1 - small, 1.0)):
        got, want = (losses.token_divergence(*ARRAYS, beta=b) for b in (beta, end))
        np.testing.assert_allclose(got / small, want, rtol=0.02)


@pytest.mark.parametrize("beta", BETAS)
def test_extreme_logits_stay_finite(beta):
    arrays = (ARRAYS[0] * np.float32(1e4), *ARRAYS[1:])
    slopes, got = run({"beta": beta, **OPTIONS[0]}, arrays)
    assert np.isfinite(got).all()
    assert all(np.isfinite(x).all() for x in slopes)


def test_bfloat16_states_sum_in_fp32_and_keep_their_dtype_in_gradients():
    low = tuple(jnp.asarray(x, jnp.bfloat16) for x in ARRAYS)
    (slopes, got), (want_slopes, want) = run({"beta": 0.5}, low), wide({"beta": 0.5}, low)
    assert got.dtype == jnp.float32
    near(got, want)
    for a, b in zip(slopes, want_slopes, strict=True):
        assert a.dtype == jnp.bfloat16
        near(np.asarray(a, np.float64), b, 2**-8)


@pytest.mark.parametrize("beta", [0.0, 0.1, 1.0])
def test_a_vocabulary_spread_over_devices_changes_nothing(beta):
    options = {"beta": beta, **OPTIONS[0]}
    # In float64: one device's rounding and the mesh's may be the tolerance apart, either way.
    want_slopes, want = wide(options)
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        placed = [
            jax.device_put(x, jax.P("data") if x.ndim == 3 else jax.P(None, "model"))
            for x in ARRAYS
        ]
        call = functools.partial(losses.token_divergence, **options)
        slope = jax.jit(
            jax.grad(
                lambda h, w, *other: (
                    jnp.sum(WEIGHTS * (values := call(h, w, *other))), values
                ),
                (0, 1), has_aux=True,
            )
        )  # fmt: skip
        slopes, got = slope(*placed)
        assert slopes[1].sharding.spec == jax.P(None, "model")
    near(got, want)
    for a, b in zip(slopes, want_slopes, strict=True):
        near(a, b)


def test_memory_is_flat_in_the_length_of_rows(optimised):
    """Value and gradient at V = 131072: compiled, never run."""
    times, vocab = (1024, 16384), logprob_memory.VOCAB
    small, large = (
        logprob_memory.temporaries(logprob_memory.tiled_divergence, time) for time in times
    )
    # What grows with T is two sets of hidden states, in the layout of tiles, and a few numbers.
    states = 4 * (2 * logprob_memory.WIDTH + logprob_memory.TEACHER + 32)
    assert 0 <= large - small < states * (times[1] - times[0])
    assert large < 4 * times[0] * vocab // 4  # not a quarter of one head's logits at the short T
    naive = logprob_memory.temporaries(logprob_memory.naive_divergence, times[0])
    assert naive > 4 * 2 * times[0] * vocab


# --- a few entries of a vocabulary ---------------------------------------------------------------


def entries(hidden, matrix, tokens, softcap=3.0):
    """Log-probabilities of K tokens and of the rest, from whole distributions."""
    z = jnp.einsum("btd,dv->btv", hidden, matrix)
    logp = jax.nn.log_softmax(softcap * jnp.tanh(z / softcap), axis=-1)
    own = jnp.take_along_axis(logp, tokens, axis=-1)
    is_own = jnp.any(jax.nn.one_hot(tokens, V, dtype=bool), axis=-2)
    rest = jax.nn.logsumexp(jnp.where(is_own, -jnp.inf, logp), axis=-1, keepdims=True)
    return jnp.concatenate([own, rest], axis=-1)


def in_tiles(hidden, matrix, tokens):
    return losses.logprobs_with_tail(hidden, matrix, tokens, tile=2, softcap=3.0)


def weighted(function, weights):
    return jax.jit(jax.grad(lambda h, w, tokens: jnp.sum(weights * function(h, w, tokens)), (0, 1)))


def test_top_tokens_and_the_log_probabilities_of_them_and_the_rest():
    tokens = losses.top_tokens(*ARRAYS[:2], 4, tile=2)
    order = np.argsort(-(ARRAYS[0] @ ARRAYS[1]), axis=-1, kind="stable")[..., :4]
    np.testing.assert_array_equal(tokens, order)
    weights = RNG.normal(size=(B, T, 5)).astype(np.float32)
    got, slopes = in_tiles(*ARRAYS[:2], tokens), weighted(in_tiles, weights)(*ARRAYS[:2], tokens)
    with jax.enable_x64(True):
        arguments = [jnp.asarray(x, jnp.float64) for x in ARRAYS[:2]]
        want = entries(*arguments, order)
        want_slopes = weighted(entries, weights.astype(np.float64))(*arguments, order)
    near(got, want)
    for a, b in zip(slopes, want_slopes, strict=True):
        near(a, b)


def test_the_rest_keeps_its_digits_where_a_few_tokens_hold_everything():
    hard = ARRAYS[0] * np.float32(60), ARRAYS[1]
    tokens = losses.top_tokens(*hard, 3)
    got = losses.logprobs_with_tail(*hard, tokens)
    with jax.enable_x64(True):
        exact = entries(*(jnp.asarray(x, jnp.float64) for x in hard), tokens, softcap=1e9)
    assert np.min(got[..., -1]) < -30  # as 1 - sum of the others it would be 0
    np.testing.assert_allclose(got[..., -1], exact[..., -1], rtol=1e-5)
    by_hidden = jax.grad(lambda h: jnp.sum(losses.logprobs_with_tail(h, hard[1], tokens)[..., -1]))(
        hard[0]
    )
    assert np.isfinite(by_hidden).all()


def test_a_few_entries_give_a_lower_bound_of_the_divergence():
    whole = losses.token_divergence(*ARRAYS, beta=0.0)
    bounds = []
    for count in (1, 3, V - 1):
        tokens = losses.top_tokens(*ARRAYS[2:], count)
        both = (losses.logprobs_with_tail(*pair, tokens) for pair in (ARRAYS[:2], ARRAYS[2:]))
        bounds.append(np.asarray(losses.forward_kl(*both)))
    assert np.all(bounds[0] < bounds[1])
    assert np.all(bounds[1] < whole)
    near(bounds[2], whole)  # V - 1 entries and the last one are all


def test_entries_of_a_vocabulary_in_parts():
    tokens = losses.top_tokens(*ARRAYS[:2], 3)
    weights = np.broadcast_to(WEIGHTS[..., None], (B, T, 4))
    found, want = in_tiles(*ARRAYS[:2], tokens), weighted(in_tiles, weights)(*ARRAYS[:2], tokens)
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        h = jax.device_put(ARRAYS[0], jax.P("data"))
        w = jax.device_put(ARRAYS[1], jax.P(None, "model"))
        places = jax.jit(lambda h, w: losses.top_tokens(h, w, 3, tile=2))(h, w)
        own, slopes = jax.jit(in_tiles)(h, w, places), weighted(in_tiles, weights)(h, w, places)
    np.testing.assert_array_equal(places, tokens)
    near(own, found)
    for a, b in zip(slopes, want, strict=True):
        near(a, b)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"other_hidden": ARRAYS[2][:, 1:]}, r"other_hidden must .* with T = 5; got \(2, 4, 6\)"),
        ({"other_unembedding": ARRAYS[3][:, 1:]}, "other_unembedding must .* with V = 12"),
        ({"beta": 1.5}, "beta must .* got 1.5"),
        ({"temperature": 0.0}, "temperature must be finite and > 0"),
        ({"tile": -1}, "tile must"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_bad_arguments_are_refused(changes, message):
    names = ("hidden", "unembedding", "other_hidden", "other_unembedding")
    arguments = {**dict(zip(names, ARRAYS, strict=True)), **changes}
    with pytest.raises(ValueError, match=message):
        tiled_divergence.token_divergence(**arguments)


@pytest.mark.parametrize("count", [0, V])
def test_bad_counts_of_entries_are_refused(count):
    with pytest.raises(ValueError, match=rf"count must be .* got {count}"):
        losses.top_tokens(*ARRAYS[:2], count)
