"""The decoder on one device: against NumPy, and against itself padded, packed, cached, cast."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.models import model as models
from alignjax.models import params, scoring, transformer
from tests.models import tiny
from tests.reference import transformer as reference

SEQUENCES = tiny.sequences([7, 3, 5])


def _logits(model):
    def run(weights, tokens, positions, segments):
        hidden, _ = model.hidden(weights, tokens, positions=positions, segments=segments)
        return hidden @ model.unembedding(weights)

    return jax.jit(run)


LOGITS = {tied: _logits(tiny.model(tied=tied)) for tied in (True, False)}


@pytest.mark.parametrize("tied", [True, False])
def test_equals_the_second_implementation(tied):
    weights = tiny.params(tied)
    ours = LOGITS[tied](weights, *tiny.rows(SEQUENCES, 7))
    for row, sequence in zip(ours, SEQUENCES, strict=True):
        want = reference.logits(weights, sequence, tiny.config(tied=tied))
        np.testing.assert_allclose(row[: len(sequence)], want, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [{"heads": 3, "kv_heads": 1}, {"heads": 2, "kv_heads": 2, "norm_eps": 0.1, "layers": 1}],
    ids=["one kv head", "no groups"],
)
def test_equals_the_second_implementation_for_other_heads(changes):
    model, config = tiny.model(**changes), tiny.config(**changes)
    weights = jax.tree.map(lambda x: 1.5 * x, jax.jit(model.init)(jax.random.key(1)))
    sequence = SEQUENCES[0]
    ours = _logits(model)(weights, *tiny.rows([sequence], 7))
    np.testing.assert_allclose(ours[0], reference.logits(weights, sequence, config), atol=1e-4)


def test_positions_count_even_where_order_does_not():
    # Without rotation the last state would not know the order of the tokens before it.
    weights = tiny.params()
    left, right = (tiny.rows([np.array(s)], 4) for s in ([1, 2, 3, 4], [2, 1, 3, 4]))
    moved = LOGITS[True](weights, *left)[0, -1] - LOGITS[True](weights, *right)[0, -1]
    assert float(jnp.abs(moved).max()) > 1e-2


def test_packed_rows_equal_separate_rows():
    weights = tiny.params()
    separate = LOGITS[True](weights, *tiny.rows(SEQUENCES, 7))
    together = LOGITS[True](weights, *tiny.packed(SEQUENCES, 18))[0]
    start = 0
    for row, sequence in zip(separate, SEQUENCES, strict=True):
        part = together[start : start + len(sequence)]
        np.testing.assert_allclose(part, row[: len(sequence)], atol=2e-5)
        start += len(sequence)


@pytest.mark.parametrize("left", [False, True])
def test_padding_changes_nothing(left):
    weights = tiny.params()
    plain = LOGITS[True](weights, *tiny.rows(SEQUENCES, 7))
    for pad in (0, 15):  # a pad id is a token like any other: 0 and 15 occur in the sequences
        padded = LOGITS[True](weights, *tiny.rows(SEQUENCES, 12, left=left, pad=pad))
        assert bool(jnp.isfinite(padded).all())
        for before, after, sequence in zip(plain, padded, SEQUENCES, strict=True):
            n = len(sequence)
            after = after[-n:] if left else after[:n]
            np.testing.assert_allclose(after, before[:n], atol=2e-5)


def _objective(model):
    """Mean negative log-likelihood of the batch, with its gradient, jitted."""

    def loss(weights, batch):
        mask = scoring.counted(batch)
        nll = -scoring.token_stats(model, weights, batch).logprob
        return jnp.sum(jnp.where(mask, nll, 0.0)) / jnp.sum(mask)

    return jax.jit(jax.value_and_grad(loss))


@pytest.fixture(scope="module")
def plain():
    """(batch, loss, gradients) of the tiny model without rematerialisation."""
    batch = tiny.batch(*tiny.rows(SEQUENCES, 8))
    return batch, *_objective(tiny.model())(tiny.params(), batch)


def test_the_loss_is_that_of_the_second_implementation(plain):
    scored = [reference.token_logprobs(tiny.params(), s, tiny.config()) for s in SEQUENCES]
    np.testing.assert_allclose(plain[1], -np.concatenate(scored).mean(), rtol=1e-5)


@pytest.mark.parametrize(
    "changes", [{"remat": "dots", "logit_tile": 3}, {"remat": "full", "unroll": 2}], ids=str
)
def test_memory_for_time_changes_no_value_and_no_gradient(plain, changes):
    batch, want, gradients = plain
    value, slopes = _objective(tiny.model(**changes))(tiny.params(), batch)
    np.testing.assert_allclose(value, want, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), slopes, gradients)


def test_bfloat16_compute_stays_close_and_keeps_master_weights(plain):
    batch, want, gradients = plain
    model = tiny.model(compute_dtype="bfloat16")
    value, slopes = _objective(model)(tiny.params(), batch)
    assert value.dtype == jnp.float32  # logits, log-probabilities and sums
    np.testing.assert_allclose(value, want, atol=5e-2)
    assert {x.dtype for x in jax.tree.leaves(slopes)} == {np.dtype(np.float32)}
    for name in ("embed", "norm"):
        a, b = np.ravel(getattr(slopes, name)), np.ravel(getattr(gradients, name))
        assert np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) > 0.99
    states = jax.eval_shape(lambda w, b: scoring.hidden_states(model, w, b), tiny.params(), batch)
    assert states.dtype == jnp.bfloat16
    assert model.cache(2, 4).keys.dtype == jnp.bfloat16
    half = jax.eval_shape(tiny.model(param_dtype="bfloat16").init, jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(half)} == {jnp.dtype(jnp.bfloat16)}


def test_cached_decoding_equals_the_full_forward():
    model, weights, new = tiny.model(), tiny.params(), 2
    sequences = tiny.sequences([6, 3, 5])
    prompts = [s[:-new] for s in sequences]
    lengths = np.array([len(p) for p in prompts])
    rows = tiny.rows(prompts, 4, pad=9)

    @jax.jit
    def step(weights, cache, tokens, positions, segments):
        return model.hidden(weights, tokens, positions=positions, segments=segments, cache=cache)

    full = LOGITS[True](weights, *tiny.rows(sequences, 7))
    for chunk in (4, 2):  # the prompts in one prefill, then in two
        cache, states = model.cache(3, 4 + new + 1), []
        for at in range(0, 4, chunk):
            hidden, cache = step(weights, cache, *(x[:, at : at + chunk] for x in rows))
            states.append(hidden)
        states = [list(np.concatenate(states, axis=1)[i, :n]) for i, n in enumerate(lengths)]
        for n in range(new):
            token = np.array([[s[len(p) + n]] for s, p in zip(sequences, prompts, strict=True)])
            hidden, cache = step(weights, cache, token, (lengths + n)[:, None], token * 0 + 1)
            for row, state in zip(states, hidden, strict=True):
                row.append(state[0])
        assert int(cache.index) == 4 + new
        for row, want in zip(states, full, strict=True):
            decoded = jnp.stack(row) @ model.unembedding(weights)
            np.testing.assert_allclose(decoded, want[: len(row)], atol=2e-5)


def test_parameters_are_keyed_by_path():
    one, other = (tiny.init()(jax.random.key(seed)) for seed in (3, 4))
    two = tiny.init(tied=False)(jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, one.blocks, two.blocks)
    np.testing.assert_array_equal(one.embed, two.embed)
    assert (one.unembed, one.scalar) == (None, None)
    assert np.abs(one.embed - other.embed).max() > 0.01
    # No two matrices begin with the same draws.
    drawn = [np.ravel(x)[:50] for x in jax.tree.leaves(two) if np.std(x) > 0]
    likeness = np.abs(np.corrcoef(drawn) - np.eye(len(drawn)))
    assert likeness.max() < 0.6


def test_parameters_follow_their_declared_laws():
    declared = transformer.declare(tiny.config(tied=False))
    made = tiny.init(tied=False)(jax.random.key(0))

    def compare(info, value):
        assert (value.shape, value.dtype) == (info.shape, jnp.float32)
        assert len(info.axes.split()) == len(info.shape)
        if info.stddev == -1:
            np.testing.assert_array_equal(value, 1)
        else:  # 256 draws or more
            np.testing.assert_allclose(
                [value.mean(), value.std()], [0, info.stddev], atol=0.2 * info.stddev
            )

    jax.tree.map(compare, declared, made, is_leaf=params.is_info)
    np.testing.assert_allclose(declared.blocks[0].mlp.gate.stddev, 16**-0.5)
    np.testing.assert_allclose(declared.blocks[0].mlp.down.stddev, (2 * 2 * 24) ** -0.5)
    np.testing.assert_allclose(declared.blocks[0].attention.out.stddev, (2 * 2 * 32) ** -0.5)
    zeros = params.init(params.ParamInfo((3,), "embed", 0), jax.random.key(0), jnp.float32)
    np.testing.assert_array_equal(zeros, 0)


def test_the_scalar_head_starts_at_zero_and_comes_off():
    model = tiny.model()
    weights = model.with_scalar(tiny.params())
    states = jnp.ones((1, 2, 16), jnp.bfloat16)
    values = model.scalar(weights, states)
    assert (values.shape, values.dtype, float(jnp.abs(values).max())) == ((1, 2), jnp.float32, 0)
    assert model.without_scalar(weights).scalar is None
    assert model.bind(weights, {}) is weights
    assert isinstance(model, models.Model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "model.heads must be a multiple of model.kv_heads; got 3 and 2"),
        ({"head_dim": 7}, "model.head_dim must be even .* got 7"),
        ({"vocab_size": 0}, "model.vocab_size must be finite and >= 1; got 0"),
        ({"layers": 0}, "model.layers must"),
        ({"unroll": 3}, "model.unroll must be finite and >= 1 and <= 2; got 3"),
        ({"norm_eps": 0.0}, "model.norm_eps must be finite and > 0"),
        ({"rope_theta": -1.0}, "model.rope_theta must"),
        ({"logit_tile": -1}, "model.logit_tile must"),
        (
            {"remat": "dot"},
            "model.remat must be one of auto, none, dots, heads, attention, full; .*mean 'dots'",
        ),
        ({"compute_dtype": "bf16"}, "model.compute_dtype must be one of float32, bfloat16"),
        ({"param_dtype": "float16"}, "model.param_dtype must .*Did you mean"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_bad_configs_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny.model(**changes)
