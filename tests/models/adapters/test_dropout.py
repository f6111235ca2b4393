"""LoRA's dropout under every method: in the differentiated pass alone, another for each row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.core import struct
from alignjax.models import transformer
from alignjax.models.adapters import adapt, lora, sites
from alignjax.training import optim, stepping, update
from tests.models.adapters import kinds
from tests.training import tiny

MODEL = transformer.transformer(tiny.shape())
DROPPING, PLAIN = (
    adapt.adapt(MODEL, lora.LoraConfig(rank=3, targets=sites.TARGETS, dropout=dropout))
    for dropout in (0.4, 0.0)
)


@pytest.fixture(scope="module")
def base():
    return kinds.roughen(jax.jit(MODEL.init)(jax.random.key(7)), size=0.1)


def prepared(name, model, own, base):
    """(method, state, frozen, batch) before a first step from these adapters."""
    method = tiny.make(name, model)
    head = jax.random.normal(jax.random.key(8), (16,))
    start = {"policy": own, "reward": struct.replace(MODEL.with_scalar(own), scalar=head)}
    frozen = {"base": base, "reference": own, "reward": start["reward"]}
    state = stepping.make_state(
        method, lambda p: optim.make_optimizer(tiny.optimizer(), p, 100), jax.random.key(0), start
    )
    batch = jax.tree.map(jnp.asarray, tiny.batch(name, 0, 8))
    if method.annotate:
        batch |= jax.jit(method.annotate)(frozen, batch)
    batch, _, _ = method.collect(state, frozen, batch, jax.random.key(1))
    return method, state, frozen, batch


@pytest.mark.parametrize("name", ["dpo", "ppo"])
def test_methods_that_compare_two_passes_drop_out_in_one(name, base):
    fresh = jax.jit(DROPPING.init)(jax.random.key(3))
    trained = kinds.roughen(fresh, size=0.1)
    own_of_plain = jax.tree.unflatten(
        jax.tree.structure(jax.eval_shape(PLAIN.init, jax.random.key(0))), jax.tree.leaves(trained)
    )
    # Fresh adapters are their base whatever drops out, so the first update's numbers hold.
    method, state, frozen, batch = prepared(name, DROPPING, fresh, base)
    run = jax.jit(update.make_gradients(method.loss))
    _, metrics = run(state.params, frozen, batch, jax.random.key(0))
    wanted = tiny.make(name, PLAIN).first(batch)
    for key, expected in wanted.items():
        if key == "kl":  # of the collection, where nothing drops out
            continue
        assert abs(float(metrics[key].value) - expected.value) <= expected.tolerance
    assert wanted
    assert not method.first(batch)  # of adapters that were trained it is another one
    # What is compared with is made without dropout ...
    method, state, frozen, batch = prepared(name, DROPPING, trained, base)
    *_, still = prepared(name, PLAIN, own_of_plain, base)
    compared = "old_logprobs" if name == "ppo" else "reference_logprobs"
    np.testing.assert_allclose(batch[compared], still[compared], atol=1e-5)
    # ... and the step's own key decides what drops out of it.
    run = jax.jit(update.make_gradients(method.loss))
    found = [run(state.params, frozen, batch, jax.random.key(n))[0] for n in (0, 0, 1)]
    first, same, other = (np.concatenate([x.ravel() for x in jax.tree.leaves(g)]) for g in found)
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 1e-3 * np.abs(first).max()


def test_rows_drop_out_differently(base):
    own = kinds.roughen(DROPPING.init(jax.random.key(3)))
    batch = tiny.batch("sft", 0, 8)
    rows = [np.repeat(batch[name][:1], 2, axis=0) for name in ("tokens", "positions", "segments")]
    run = jax.jit(lambda key: kinds.logits(MODEL, DROPPING.bind(own, {"base": base}, key), *rows))
    one, two = run(jax.random.key(0))
    assert np.abs(one - two).max() > 1e-2
    one, two = kinds.logits(MODEL, DROPPING.bind(own, {"base": base}), *rows)
    np.testing.assert_array_equal(one, two)
