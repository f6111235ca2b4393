"""Every method trains every kind of adapter: nothing else moves, and it starts from its base."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.core import struct, trees
from alignjax.models import transformer
from alignjax.models.adapters import adapt
from alignjax.training import optim, stepping, update
from tests.models.adapters import kinds
from tests.training import tiny

MODEL = transformer.transformer(tiny.shape())
ROWS = 8


@pytest.fixture(scope="module")
def base():
    return jax.jit(MODEL.init)(jax.random.key(7))


def scored(own):
    """Adapters of a reward model whose head is not zero."""
    head = jax.random.normal(jax.random.key(8), (16,))
    return struct.replace(MODEL.with_scalar(own), scalar=head)


def prepared(method_name, kind, base):
    """(method, state, frozen, tx, batch, what collect found) of a first step over `base`."""
    model = kinds.model_of(kind, MODEL)
    method = tiny.make(method_name, model)
    own = jax.jit(model.init)(jax.random.key(3))
    start = {"policy": own, "reward": scored(own)}
    frozen = {"base": base, "reference": adapt.empty(own), "reward": start["reward"]}
    tx = None

    def tx_of(params):
        nonlocal tx
        tx = optim.make_optimizer(tiny.optimizer(), params, 100)
        return tx

    state = stepping.make_state(method, tx_of, jax.random.key(0), start)
    batch = jax.tree.map(jnp.asarray, tiny.batch(method_name, 0, ROWS))
    if method.annotate:
        batch |= jax.jit(method.annotate)(frozen, batch)
    batch, _, found = method.collect(state, frozen, batch, jax.random.key(1))
    return method, state, frozen, tx, batch, found


# Quick: every method with LoRA, and every kind with SFT.
EVERY = [
    pytest.param(name, kind, marks=[] if name == "sft" or kind == "lora" else pytest.mark.slow)
    for name in tiny.METHODS
    for kind in kinds.KINDS
]
EVERY += [
    pytest.param(name, "vocabulary", marks=pytest.mark.slow) for name in ("sft", "dpo", "ppo")
]


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_a_step_moves_the_adapters_alone(name, kind, base):
    before = jax.tree.map(np.asarray, base)
    method, state, frozen, tx, batch, found = prepared(name, kind, base)
    old = jax.tree.map(np.asarray, state.params)
    widths = {x.shape for x in jax.tree.leaves(before) if x.ndim > 2}
    for tree in (state.params, state.opt_state):
        assert not widths & {x.shape for x in jax.tree.leaves(tree)}
    assert trees.size(state.opt_state) <= 2 * trees.size(state.params) + 8
    run = update.make_update(method.loss, tx)
    state, metrics = run(state, frozen, batch, jax.random.key(0))
    for key, expected in method.first(batch).items():
        value = {**found, **metrics}[key].value
        assert abs(float(value) - expected.value) <= expected.tolerance
    if name == "dpo":
        assert abs(float(metrics["dpo"].value) - math.log(2)) < 1e-6
    if found:
        np.testing.assert_allclose(found["kl"].value, 0.0, atol=1e-5)
    assert float(metrics["skipped"].value) == 0
    assert float(metrics["grad_norm"].value) > 0
    state, _ = run(state, frozen, batch, jax.random.key(1))
    state, _ = run(state, frozen, batch, jax.random.key(2))
    new = trees.named_leaves(state.params)
    still = [n for n, x in trees.named_leaves(old).items() if np.array_equal(x, new[n])]
    assert not still
    jax.tree.map(np.testing.assert_array_equal, before, base)


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[] if k == "lora" else pytest.mark.slow) for k in kinds.KINDS]
)
def test_dpo_lifts_the_chosen_over_a_reference_that_stays(kind, base):
    method, state, frozen, tx, batch, _ = prepared("dpo", kind, base)
    run = update.make_update(method.loss, tx)
    for step in range(6):
        state, metrics = run(state, frozen, batch, jax.random.key(step))
    assert float(metrics["chosen_reward"].value) > 0 > float(metrics["rejected_reward"].value)
    again = jax.jit(method.annotate)(frozen, batch)["reference_logprobs"]
    np.testing.assert_array_equal(again, batch["reference_logprobs"])
