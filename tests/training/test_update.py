"""One update: exact under micro-batches, skipped when not finite, clipped, donated."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax.core import mean
from alignjax.models import transformer
from alignjax.training import algorithm, update
from tests.training import tiny

ROWS, TIME, WIDTH = 8, 5, 3


def make_batch(seed=0):
    rng = np.random.default_rng(seed)
    lengths = np.array([5, 1, 3, 1, 4, 0, 2, 5])
    return {
        "x": rng.normal(size=(ROWS, TIME, WIDTH)).astype(np.float32),
        "y": rng.normal(size=(ROWS, TIME)).astype(np.float32),
        "mask": np.arange(TIME) < lengths[:, None],
        "counted": np.array([1, 0, 0, 0, 1, 1, 0, 0], bool),  # rows of the second term
    }


def loss(params, frozen, batch, key):
    """A token mean and a mean over some rows: two denominators."""
    guess = batch["x"] @ params["w"]
    token = mean.masked(0.5 * (guess - batch["y"]) ** 2, batch["mask"])
    row = mean.masked(0.5 * jnp.sum(guess, axis=1) ** 2, batch["counted"])
    return {"token": token, "row": row}, {"token": token, "row": row}


def by_hand(params, batch):
    """(loss, gradient) of the whole batch, in NumPy."""
    x, mask = batch["x"].astype(np.float64), batch["mask"]
    guess = x @ np.asarray(params["w"], np.float64)
    error = np.where(mask, guess - batch["y"], 0.0)
    total, counted = guess.sum(1), batch["counted"]
    value = 0.5 * (error**2).sum() / mask.sum() + 0.5 * (total[counted] ** 2).mean()
    gradient = np.einsum("bt,btd->d", error, x) / mask.sum()
    gradient += (total[counted, None] * x.sum(1)[counted]).mean(0)
    return value, gradient


PARAMS = {"w": jnp.array([0.3, -1.2, 0.7])}


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_micro_batches_are_the_batch_by_hand(count):
    batch = make_batch()
    run = jax.jit(update.make_gradients(loss, micro_batches=count))
    gradients, metrics = run(PARAMS, {}, batch, jax.random.key(0))
    value, gradient = by_hand(PARAMS, batch)
    np.testing.assert_allclose(gradients["w"], gradient, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"].value, value, rtol=1e-6)
    assert float(metrics["token"].weight) == batch["mask"].sum()
    assert float(metrics["row"].weight) == batch["counted"].sum()
    np.testing.assert_allclose(metrics["loss"].weight, 1.0)


def test_the_mean_of_means_would_differ():
    """The batch tells the exact rule from the usual one: else the test above shows nothing."""
    batch = make_batch()
    parts = [{k: v[i::4] for k, v in batch.items()} for i in range(4)]
    naive = np.mean(
        [jax.grad(lambda p, part=part: sum(
            m.value for m in loss(p, {}, part, None)[0].values()))(PARAMS)["w"] for part in parts],
        axis=0,
    )  # fmt: skip
    assert np.abs(naive - by_hand(PARAMS, batch)[1]).max() > 0.1


def test_micro_batches_of_a_transformer():
    model = transformer.transformer(tiny.shape())
    method, state, frozen, _ = tiny.ready("sft", model)
    batch = {k: jnp.asarray(x) for k, x in tiny.batch("sft", 0, 8).items()}
    found = [
        jax.jit(update.make_gradients(method.loss, micro_batches=count))(
            state.params, frozen, batch, jax.random.key(0)
        )
        for count in (1, 4)
    ]
    whole, parts = (jax.tree.leaves(gradients) for gradients, _ in found)
    for one, many in zip(whole, parts, strict=True):
        np.testing.assert_allclose(many, one, rtol=1e-5, atol=1e-6)
    for key, one in found[0][1].items():
        np.testing.assert_allclose(found[1][1][key].value, one.value, rtol=1e-5, atol=1e-6)


def test_the_loop_that_finds_weights_runs_no_forward_pass():
    """XLA counts a loop's body once: 4 micro-batches of 4 rows cost what 4 rows alone cost."""
    model = transformer.transformer(tiny.shape(width=32, ff=64))
    method = tiny.make("sft", model)
    params = jax.eval_shape(model.init, jax.random.key(0))

    def honest(params, frozen, batch, key):
        return method.loss(params, frozen, batch, key)

    def needs_forward(params, frozen, batch, key):
        terms, metrics = method.loss(params, frozen, batch, key)
        term = terms["loss"]
        return {"loss": mean.Mean(total=term.total, weight=term.weight + term.total)}, metrics

    def flops(loss, count, rows):
        run = jax.jit(update.make_gradients(loss, micro_batches=count))
        batch = jax.tree.map(jnp.asarray, tiny.rows(0, rows))
        compiled = run.lower(params, {}, batch, jax.random.key(0)).compile()
        return compiled.cost_analysis()["flops"]

    alone = flops(honest, 1, 4)
    assert flops(honest, 4, 16) < 1.1 * alone
    assert flops(needs_forward, 4, 16) > 1.2 * alone  # so the count would have told


def state_of(params, tx):
    # Copies: the update donates what it is given.
    params = jax.tree.map(jnp.copy, params)
    zero = jnp.zeros((), jnp.int32)
    return algorithm.TrainState(step=zero, params=params, opt_state=tx.init(params), carry=())


def poisoned(params, frozen, batch, key):
    """The loss, or its gradient alone, is not finite where the batch says so."""
    terms, metrics = loss(params, frozen, batch, key)
    # sqrt has value 0 and an infinite slope at 0.
    edge = jnp.sqrt(jnp.maximum(batch["edge"] * jnp.sum(params["w"] ** 2), 0.0))
    extra = mean.of(jnp.where(batch["edge"] == 1, 0.0, edge) + batch["bad"])
    return {**terms, "extra": extra}, metrics


@pytest.mark.parametrize("micro_batches", [1, 4])
@pytest.mark.parametrize(("field", "value"), [("bad", np.inf), ("bad", np.nan), ("edge", 0.0)])
def test_a_non_finite_update_is_skipped_and_counted(field, value, micro_batches):
    tx = optax.adam(0.1)
    run = update.make_update(poisoned, tx, micro_batches=micro_batches)
    good = {**make_batch(), "bad": np.zeros(ROWS, np.float32), "edge": np.ones(ROWS, np.float32)}
    state, metrics = run(state_of(PARAMS, tx), {}, good, jax.random.key(0))
    assert float(metrics["skipped"].value) == 0
    before = jax.device_get((state.params, state.opt_state))
    assert not np.array_equal(before[0]["w"], PARAMS["w"])
    bad = {**good, field: good[field].copy()}
    bad[field][5] = value
    state, metrics = run(state, {}, bad, jax.random.key(1))
    assert float(metrics["skipped"].value) == 1
    assert field == "edge" or not np.isfinite(float(metrics["loss"].value))
    after = jax.device_get((state.params, state.opt_state))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    state, metrics = run(state, {}, good, jax.random.key(2))
    assert float(metrics["skipped"].value) == 0
    assert not np.array_equal(state.params["w"], after[0]["w"])


def test_the_gradient_norm_is_of_the_whole_batch_before_clipping():
    tx = optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(1.0))
    run = update.make_update(loss, tx, micro_batches=4)
    batch = make_batch()
    gradient = by_hand(PARAMS, batch)[1]
    norm = np.linalg.norm(gradient)
    assert norm > 1
    state, metrics = run(state_of(PARAMS, tx), {}, batch, jax.random.key(0))
    np.testing.assert_allclose(metrics["grad_norm"].value, norm, rtol=1e-6)
    moved = np.asarray(state.params["w"]) - np.asarray(PARAMS["w"])
    np.testing.assert_allclose(moved, -0.5 * gradient / norm, rtol=1e-5)


def test_the_state_is_donated():
    tx = optax.adam(0.1)
    state = state_of(PARAMS, tx)
    update.make_update(loss, tx)(state, {}, make_batch(), jax.random.key(0))
    assert state.params["w"].is_deleted()
    assert all(x.is_deleted() for x in jax.tree.leaves(state.opt_state) if x.ndim)


def test_every_micro_batch_has_a_key_of_its_own():
    def noisy(params, frozen, batch, key):
        noise = mean.of(jax.random.normal(key, (100,)) ** 2)
        return loss(params, frozen, batch, key)[0], {"noise": noise}

    run = jax.jit(update.make_gradients(noisy, micro_batches=2))
    value = run(PARAMS, {}, make_batch(), jax.random.key(0))[1]["noise"]
    keys = jax.random.split(jax.random.key(0), 2)
    parts = [float(jnp.sum(jax.random.normal(k, (100,)) ** 2)) for k in keys]
    assert abs(parts[0] - parts[1]) > 1
    np.testing.assert_allclose(value.total, sum(parts), rtol=1e-5)


def test_no_counted_token_gives_no_gradient():
    batch = make_batch()
    batch |= {"mask": np.zeros_like(batch["mask"]), "counted": np.zeros(ROWS, bool)}
    gradients, metrics = update.make_gradients(loss)(PARAMS, {}, batch, jax.random.key(0))
    np.testing.assert_array_equal(gradients["w"], 0.0)
    assert float(metrics["loss"].value) == 0.0


def test_split_micro_interleaves_rows_and_refuses_a_remainder():
    parts = update.split_micro({"x": np.arange(6)[:, None]}, 3)["x"]
    np.testing.assert_array_equal(parts[..., 0], [[0, 3], [1, 4], [2, 5]])
    with pytest.raises(ValueError, match="got 4 for 6 rows"):
        update.split_micro({"x": np.arange(6)}, 4)
