"""The optimizer: schedules by hand, decay, freezing, clipping, and its state's layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.core import trees
from alignjax.models import transformer
from alignjax.training import optim, stepping
from tests.training import tiny

PARAMS = {
    "policy": {"embed": jnp.full((2,), 2.0), "mlp": jnp.full((3,), -1.0), "norm": jnp.ones(2)},
    "value": {"mlp": jnp.full((3,), 4.0), "scalar": jnp.full((2,), 0.5)},
}


def rates(count, **changes):
    schedule = optim.make_schedule(optim.OptimConfig(learning_rate=2.0, **changes), count)
    return [float(schedule(step)) for step in range(count)]


def test_schedules_by_hand():
    ramp = [0.5, 1.0, 1.5, 2.0]  # the first update already moves
    np.testing.assert_allclose(rates(7, schedule="constant", warmup_steps=4), [*ramp, 2, 2, 2])
    np.testing.assert_allclose(
        rates(8, schedule="linear", warmup_steps=4), [*ramp, 2.0, 1.5, 1.0, 0.5]
    )
    np.testing.assert_allclose(
        rates(8, schedule="linear", warmup_steps=4, final_fraction=0.5),
        [*ramp, 2.0, 1.75, 1.5, 1.25],
    )
    cosine = [0.5 * (1 + np.cos(np.pi * t / 4)) for t in range(4)]
    np.testing.assert_allclose(
        rates(4, schedule="cosine", warmup_steps=0), np.multiply(2.0, cosine), rtol=1e-6
    )
    np.testing.assert_allclose(
        rates(4, schedule="cosine", warmup_steps=0, final_fraction=0.1),
        [2 * (0.1 + 0.9 * c) for c in cosine],
        rtol=1e-6,
    )


def test_a_warm_up_longer_than_the_run_and_runs_of_one_update():
    found = rates(3, schedule="cosine", warmup_steps=20)
    np.testing.assert_allclose(found, [1.0, 2.0, 2.0])
    assert rates(1, schedule="linear", warmup_steps=20) == [2.0]
    np.testing.assert_allclose(rates(2, schedule="constant", warmup_steps=1), [2.0, 2.0])


def applied(config, params, gradients, steps=1):
    tx = optim.make_optimizer(config, params, 10)
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(gradients, state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return params, state


def plain(**changes):
    return tiny.optimizer(learning_rate=0.1, **changes)


def test_adamw_by_hand():
    config = plain(b1=0.9, b2=0.95, weight_decay=0.0, clip_norm=0.0)
    params, gradient = {"a": jnp.array([1.0, -2.0])}, {"a": jnp.array([0.5, 3.0])}
    found, _ = applied(config, params, gradient, steps=2)
    expected, m, v = np.array([1.0, -2.0]), 0.0, 0.0
    for t in (1, 2):
        m, v = 0.9 * m + 0.1 * gradient["a"], 0.95 * v + 0.05 * gradient["a"] ** 2
        expected -= 0.1 * np.asarray((m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8))
    np.testing.assert_allclose(found["a"], expected, rtol=1e-5)


def test_decay_spares_norms_scalars_and_embeddings():
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    found, _ = applied(plain(weight_decay=0.5), PARAMS, zero)
    shrunk = {n: bool(np.any(np.asarray(x))) for n, x in trees.named_leaves(
        jax.tree.map(lambda a, b: a - b, found, PARAMS)).items()}  # fmt: skip
    assert {n for n, changed in shrunk.items() if changed} == {"policy/mlp", "value/mlp"}
    np.testing.assert_allclose(found["value"]["mlp"], 4.0 * (1 - 0.1 * 0.5), rtol=1e-6)


@pytest.mark.parametrize("pattern", ["^policy/", "mlp", "value/scalar"])
def test_frozen_leaves_do_not_change_by_a_bit(pattern):
    gradients = jax.tree.map(jnp.ones_like, PARAMS)
    config = plain(freeze=pattern, weight_decay=0.5, no_decay="$^")
    found, state = applied(config, PARAMS, gradients, steps=2)
    frozen = trees.named_leaves(trees.matching(PARAMS, pattern))
    assert set(frozen.values()) == {True, False}
    before, after = trees.named_leaves(PARAMS), trees.named_leaves(found)
    for name, is_frozen in frozen.items():
        same = np.array_equal(before[name], after[name])
        assert same == is_frozen, name
    moments = [n for n in trees.named_leaves(state) if "/mu/" in n]
    assert len(moments) == list(frozen.values()).count(False)  # no memory for what stays


@pytest.mark.parametrize(("pattern", "word"), [("nothing_like_it", "none"), (".", "all")])
def test_a_freeze_pattern_must_match_some_and_not_all(pattern, word):
    with pytest.raises(ValueError, match=f"which matches {word} of policy/embed"):
        optim.make_optimizer(plain(freeze=pattern), PARAMS, 10)


def test_freezing_a_single_network():
    params = {"body": jnp.ones(2), "head": jnp.ones(2)}
    found, _ = applied(plain(freeze="body"), params, jax.tree.map(jnp.ones_like, params))
    np.testing.assert_array_equal(found["body"], 1.0)
    assert np.all(found["head"] < 1.0)


def test_networks_are_clipped_one_by_one():
    gradients = jax.tree.map(jnp.zeros_like, PARAMS)
    gradients["policy"]["mlp"] = jnp.array([0.3, 0.0, 0.4])  # norm 0.5
    gradients["value"]["mlp"] = jnp.array([3000.0, 4000.0, 0.0])
    _, state = applied(plain(b1=0.0, clip_norm=1.0), PARAMS, gradients)
    moments = {n.split("/mu/")[1]: x for n, x in trees.named_leaves(state).items() if "/mu/" in n}
    np.testing.assert_allclose(moments["policy/mlp"], [0.3, 0.0, 0.4], rtol=1e-6)
    np.testing.assert_allclose(moments["value/mlp"], [0.6, 0.8, 0.0], rtol=1e-6)


def test_one_network_is_clipped_on_its_global_norm():
    params = transformer_like()
    gradients = jax.tree.map(lambda x: jnp.full_like(x, 10.0), params)
    tx = optim.make_optimizer(plain(b1=0.0, clip_norm=1.0), params, 10)
    _, state = tx.update(gradients, tx.init(params), params)
    moments = [x for n, x in trees.named_leaves(state).items() if "/mu/" in n]
    np.testing.assert_allclose(np.sqrt(sum(np.sum(np.square(x)) for x in moments)), 1.0, rtol=1e-5)


def transformer_like():
    model = transformer.transformer(tiny.shape())
    return jax.tree.map(
        lambda x: jnp.ones(x.shape, x.dtype), jax.eval_shape(model.init, jax.random.key(0))
    )


def test_optimizer_state_is_laid_out_as_its_parameters(any_mesh):
    model = transformer.transformer(tiny.shape(width=32))

    def make(key):
        params = model.init(key)
        tree = {"policy": params, "value": model.with_scalar(params)}
        method = tiny.make("ppo", model)
        start = {"policy": params, "reward": tree["value"]}
        return stepping.make_state(
            method, lambda p: optim.make_optimizer(optim.OptimConfig(), p, 10), key, start
        )

    state = jax.jit(make)(jax.random.key(0))
    params = trees.named_leaves(state.params)
    split = 0
    for moment in ("mu", "nu"):
        marker = f"/{moment}/"
        found = {
            n.split(marker)[1]: x
            for n, x in trees.named_leaves(state.opt_state).items()
            if marker in n
        }
        assert found.keys() == params.keys()
        for name, x in found.items():
            assert x.sharding == params[name].sharding, name
            split += not x.sharding.is_fully_replicated
    assert (split > 0) == (any_mesh is not None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", -1.0),
        ("learning_rate", float("nan")),
        ("schedule", "cosin"),
        ("b2", 1.0),
        ("eps", 0.0),
        ("final_fraction", 1.5),
        ("freeze", "("),
        ("clip_norm", float("inf")),
    ],
)
def test_bad_numbers_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"optim.{field}"):
        optim.OptimConfig(**{field: value}).validate()
