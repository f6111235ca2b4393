"""The tiled primitive against naive float64, its memory, and its vocabulary spread over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.test_util import check_grads

from alignjax.losses import logprobs, tiles
from bench import logprob_memory

B, T, D, V = 2, 5, 8, 13
FIELDS = ("logprob", "entropy", "logsumexp", "sum_p2", "mean_logit")
OPTIONS = [
    {"tile": 1},
    {"tile": 3},  # does not divide T: the last tile is padded
    {"tile": T},
    {},
    {"tile": 2, "temperature": 0.7},
    {"tile": 3, "softcap": 2.0, "scale": 1.7},
    {"tile": 5, "softcap": 4.0, "scale": 0.3, "temperature": 2.5},
]
RNG = np.random.default_rng(2)
HIDDEN = RNG.normal(size=(B, T, D)).astype(np.float32)
MATRIX = (RNG.normal(size=(D, V)) * 0.6).astype(np.float32)
TARGETS = RNG.integers(0, V, (B, T))
TARGETS[0, :2] = 0, V - 1
WEIGHTS = RNG.normal(size=(len(FIELDS), B, T)).astype(np.float32)


def naive(hidden, matrix, *, temperature=1.0, softcap=0.0, scale=1.0, tile=0):
    """[5, B, T] statistics in the order of FIELDS, in the precision of the inputs."""
    z = scale * jnp.einsum("btd,dv->btv", hidden, matrix)
    z = softcap * jnp.tanh(z / softcap) / temperature if softcap else z / temperature
    logp = jax.nn.log_softmax(z, axis=-1)
    p = jnp.exp(logp)
    return jnp.stack(
        [
            jnp.take_along_axis(logp, TARGETS[..., None], axis=-1)[..., 0],
            -jnp.sum(p * logp, axis=-1),
            jnp.log(jnp.sum(jnp.exp(z), axis=-1)),
            jnp.sum(p * p, axis=-1),
            jnp.mean(z, axis=-1),
        ]
    )


def ours(hidden, matrix, **options):
    stats = logprobs.token_stats(hidden, matrix, TARGETS, **options)
    return jnp.stack([getattr(stats, name) for name in FIELDS])


@functools.cache
def slopes_and_stats(function, options):
    """Jitted (hidden, matrix, weights) -> (gradients of sum(weights stats), stats)."""

    def total(hidden, matrix, weights):
        stats = function(hidden, matrix, **dict(options))
        return jnp.sum(weights * stats), stats

    return jax.jit(jax.grad(total, (0, 1), has_aux=True))


def run(options, hidden=HIDDEN, matrix=MATRIX, weights=WEIGHTS):
    return slopes_and_stats(ours, tuple(options.items()))(hidden, matrix, weights)


def wide(options, hidden=HIDDEN, matrix=MATRIX, weights=WEIGHTS):
    """The same of the naive formulas in float64."""
    with jax.enable_x64(True):
        arguments = (jnp.asarray(x, jnp.float64) for x in (hidden, matrix, weights))
        return jax.device_get(slopes_and_stats(naive, tuple(options.items()))(*arguments))


def near(got, want, tolerance=1e-6):
    """Within the tolerance of the largest entry."""
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_statistics_and_gradients_equal_naive_float64(options):
    (slopes, got), (want_slopes, want) = run(options), wide(options)
    assert got.dtype == jnp.float32
    for name, a, b in zip(FIELDS, got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6, err_msg=name)
    for a, b in zip(slopes, want_slopes, strict=True):
        near(a, b)


@pytest.mark.parametrize("name", FIELDS)
def test_each_statistic_has_its_own_gradient(name):
    options = OPTIONS[-2]
    weights = WEIGHTS * (np.array(FIELDS) == name)[:, None, None]
    slopes, want = (f(options, weights=weights)[0] for f in (run, wide))
    for a, b in zip(slopes, want, strict=True):
        near(a, b)


def test_gradients_by_differences():
    check_grads(
        lambda h, w: ours(h, w, tile=2, softcap=5.0), (HIDDEN, MATRIX), order=1, modes=("rev",)
    )


def test_top1_is_the_most_likely_token_and_has_no_gradient():
    stats = logprobs.token_stats(HIDDEN, MATRIX, TARGETS, tile=2)
    np.testing.assert_array_equal(stats.top1, (HIDDEN @ MATRIX).argmax(-1))
    slope = jax.grad(lambda h: logprobs.token_stats(h, MATRIX, TARGETS).top1.sum() * 1.0)(HIDDEN)
    np.testing.assert_array_equal(slope, 0)
    np.testing.assert_array_equal(
        logprobs.token_logprobs(HIDDEN, MATRIX, TARGETS, tile=2), stats.logprob
    )


def test_bfloat16_inputs_sum_in_fp32_and_keep_their_dtype_in_gradients():
    h, w = jnp.asarray(HIDDEN, jnp.bfloat16), jnp.asarray(MATRIX, jnp.bfloat16)
    slopes, got = run({"tile": 1}, h, w)
    want_slopes, want = wide({"tile": 1}, *(np.asarray(x, np.float64) for x in (h, w)))
    assert got.dtype == jnp.float32
    near(got, want)  # of these very bf16 numbers: nothing between is rounded to bf16
    for a, b in zip(slopes, want_slopes, strict=True):
        assert a.dtype == jnp.bfloat16
        near(np.asarray(a, np.float64), b, 2**-8)


@pytest.mark.parametrize("shards", [2, 4])
def test_a_vocabulary_spread_over_devices_changes_nothing(shards):
    options, size = {"tile": 2, "softcap": 5.0}, 12
    matrix, targets = MATRIX[:, :size], TARGETS % size

    def spread(h, w):
        stats = logprobs.token_stats(h, w, targets, **options)
        columns = jnp.stack([getattr(stats, name) for name in FIELDS])
        return jnp.sum(WEIGHTS * columns), (columns, stats.top1)

    step = jax.jit(jax.value_and_grad(spread, (0, 1), has_aux=True))
    (_, (want, want_top)), want_slopes = step(HIDDEN, matrix)
    mesh = jax.make_mesh((2, shards), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        h = jax.device_put(HIDDEN, jax.P("data"))
        w = jax.device_put(matrix, jax.P(None, "model"))
        (_, (got, top)), slopes = step(h, w)
        assert [s.sharding.spec for s in slopes] == [
            jax.P("data", None, None),
            jax.P(None, "model"),
        ]
    near(got, want)
    np.testing.assert_array_equal(top, want_top)
    for a, b in zip(slopes, want_slopes, strict=True):
        near(a, b)


MASKS = {
    "a few": np.array([[0, 1, 0, 0, 1], [1, 0, 0, 1, 0]], bool),
    "all in one row": np.array([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], bool),
    "none": np.zeros((B, T), bool),
    "all": np.ones((B, T), bool),
}
# Devices hold other rows and times, and so other numbers of counted tokens.
MESHES = {"data": (("data",), None), "seq": ((None, "data"), None), "model": ((), "data")}


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(tiles, "FEWEST", 3)
    monkeypatch.setattr(tiles, "COUNTED_TILES", 10)


def counted(hidden, matrix, targets, weights, mask=None, tile=2):
    """(sum of weighted statistics where the mask counts, the statistics)."""
    where = np.ones(targets.shape, bool) if mask is None else mask
    stats = logprobs.token_stats(hidden, matrix, targets, softcap=5.0, mask=mask, tile=tile)
    columns = jnp.stack([getattr(stats, name) for name in FIELDS])
    return jnp.sum(jnp.where(where, weights * columns, 0.0)), (columns, stats.top1)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("place", [None, "one tile", *MESHES])
def test_counted_tokens_alone_give_the_same(name, place, small_tiles):
    length, size = 4, 12  # that a mesh's axes divide
    hidden, matrix, targets = HIDDEN[:, :length], MATRIX[:, :size], TARGETS[:, :length] % size
    mask, weights = MASKS[name][:, :length], np.abs(WEIGHTS[:, :, :length])
    step = jax.jit(jax.grad(counted, (0, 1), has_aux=True))
    # What must not be read is not there at all.
    hidden = np.where(mask[..., None], hidden, np.nan)
    plain, (columns, top) = step(np.nan_to_num(hidden), matrix, targets, weights * mask)
    if place not in MESHES:
        whole = jax.jit(
            jax.grad(functools.partial(counted, tile=0 if place else 2), (0, 1), has_aux=True)
        )
        slopes, (got, got_top) = whole(hidden, matrix, targets, weights, mask)
    else:
        rows, vocab = MESHES[place]
        mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
        with jax.set_mesh(mesh):
            where = [jax.P(*rows), jax.P(None, vocab), jax.P(*rows), jax.P(), jax.P(*rows)]
            arrays = (hidden, matrix, targets, weights, mask)
            placed = [jax.device_put(x, p) for x, p in zip(arrays, where, strict=True)]
            slopes, (got, got_top) = jax.device_get(step(*placed))
    np.testing.assert_array_equal(got[:, ~mask], 0)
    np.testing.assert_array_equal(got_top[mask], top[mask])
    np.testing.assert_allclose(got[:, mask], columns[:, mask], rtol=2e-6, atol=1e-6)
    for a, b in zip(slopes, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * (np.abs(b).max() or 1))
    np.testing.assert_array_equal(slopes[0][~mask], 0)


def operations(jaxpr, of=lambda eqn: eqn.primitive.name):
    """Of a program and all within it."""
    found = []
    for eqn in jaxpr.eqns:
        found.append(of(eqn))
        for inner in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            found += operations(inner, of) if hasattr(inner, "eqns") else []
    return found


def backward(want, read):
    """The names of a gradient's operations, of the statistics in `read`."""

    def total(hidden, matrix):
        stats = logprobs.token_stats(hidden, matrix, TARGETS, want=want)
        return sum(getattr(stats, name).sum() for name in read), stats

    return operations(jax.make_jaxpr(jax.grad(total, has_aux=True))(HIDDEN, MATRIX).jaxpr)


def test_what_is_not_wanted_is_not_computed():
    lean, full = backward(("logprob",), ("logprob",)), backward(logprobs.FIELDS, ("logprob",))
    assert lean.count("argmax") == 0
    assert full.count("argmax") == 1
    # max, two sums; and in the gradient that of the states alone, no reduction but the products.
    assert lean.count("reduce_sum") - 1 == 2
    assert full.count("reduce_sum") - 1 == 5
    assert lean.count("exp") == full.count("exp") == 2
    stats = logprobs.token_stats(HIDDEN, MATRIX, TARGETS, want=("logprob",))
    assert stats.entropy is None
    assert stats.top1 is None
    np.testing.assert_array_equal(
        stats.logprob, logprobs.token_stats(HIDDEN, MATRIX, TARGETS).logprob
    )
    with pytest.raises(ValueError, match="want must be one of logprob, entropy"):
        logprobs.token_stats(HIDDEN, MATRIX, TARGETS, want=("perplexity",))


def test_a_statistic_without_gradient_costs_the_backward_pass_nothing():
    published = backward(("logprob", "entropy"), ("logprob",))
    differentiated = backward(("logprob", "entropy"), ("logprob", "entropy"))
    lean = backward(("logprob",), ("logprob",))
    forward = published.count("mul") - lean.count("mul")
    assert forward == 1  # s e^s
    assert differentiated.count("mul") > published.count("mul")


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_extreme_logits_stay_finite(scale):
    h = HIDDEN * np.float32(scale)
    got = ours(h, MATRIX, tile=3)
    assert np.isfinite(got).all()
    sure = np.sort(h @ MATRIX, -1)
    np.testing.assert_array_less(100, sure[..., -1] - sure[..., -2])  # one token has all the mass
    np.testing.assert_allclose(got[3], 1.0)
    np.testing.assert_allclose(got[1], 0.0, atol=1e-6)
    slopes = jax.grad(lambda h, w: ours(h, w, tile=3)[:4].sum(), (0, 1))(h, MATRIX)
    assert all(np.isfinite(s).all() for s in slopes)


def test_a_large_common_offset_of_the_logits_costs_no_entropy():
    # Entropy does not depend on the offset; computed as logsumexp - E z it would lose digits.
    h = np.concatenate([HIDDEN, np.full((B, T, 1), 64.0, np.float32)], axis=-1)
    w = np.concatenate([MATRIX, np.full((1, V), 64.0, np.float32)], axis=0)
    exact = wide({})[1]
    got = ours(h, w, tile=2)
    np.testing.assert_allclose(got[1], exact[1], atol=1e-3)
    np.testing.assert_allclose(got[0], exact[0], atol=2e-3)


def test_memory_is_a_tile_not_the_whole_vocabulary(optimised):
    """Value and gradient at V = 131072: compiled, never run."""
    times, width, vocab = (4096, 16384), logprob_memory.WIDTH, logprob_memory.VOCAB
    naive = logprob_memory.temporaries(logprob_memory.naive, times[0])
    assert naive > 4 * times[0] * vocab >= 2 * 2**30  # GiBs
    small, large = (logprob_memory.temporaries(logprob_memory.tiled, time) for time in times)
    assert large * 50 < naive, f"{large / 2**20:.1f} and {naive / 2**20:.1f} MiB"
    # What grows with T is as wide as hidden states: the tiles' logits do not add up.
    assert 0 < large - small < 2 * 4 * width * (times[1] - times[0])
    fixed = 4 * vocab * (width + logprob_memory.TILE)  # the matrix's gradient, one tile's logits
    assert small < fixed + 2 * 4 * width * times[0]


def test_the_tile_is_chosen_by_size():
    hidden, matrix = jnp.zeros((4, 1000, 2)), jnp.zeros((2, 32768))
    assert tiles.choose_tile(hidden, matrix) == 2**25 // (4 * 4 * 32768) == 64
    assert tiles.choose_tile(hidden[:, :3], matrix) == 3
    assert tiles.choose_tile(jnp.zeros((4096, 9, 1)), jnp.zeros((1, 32768))) == 1
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):  # what one device holds counts
        placed = jax.device_put(hidden, jax.P("data")), jax.device_put(matrix, jax.P(None, "model"))
        assert tiles.choose_tile(*placed) == 8 * 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": HIDDEN[0]}, r"hidden must have shape \[B T D\]; got \(5, 8\)"),
        ({"unembedding": MATRIX.T}, r"unembedding must .* with D = 8; got \(13, 8\)"),
        ({"targets": TARGETS[:, 1:]}, r"targets must have shape \[B T\] with T = 5; got \(2, 4\)"),
        ({"temperature": 0.0}, "temperature must be finite and > 0; got 0.0"),
        ({"softcap": -1.0}, "softcap must be finite and >= 0; got -1.0"),
        ({"scale": float("nan")}, "scale must be finite and > 0; got nan"),
        ({"tile": -1}, "tile must be finite and >= 0; got -1"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_bad_arguments_are_refused(changes, message):
    arguments = {"hidden": HIDDEN, "unembedding": MATRIX, "targets": TARGETS, **changes}
    with pytest.raises(ValueError, match=message):
        logprobs.token_stats(**arguments)
