"""Every family trains: a step of SFT on all weights, and one of DPO on adapters over them."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.core import trees
from alignjax.models import transformer
from alignjax.models.adapters import adapt, lora
from alignjax.training import optim, stepping, update
from tests.models.families import golden
from tests.training import tiny

pytestmark = pytest.mark.slow
ROWS = 4
LORA = lora.LoraConfig(rank=2, targets=("query", "key", "value"))  # as latent attention wants


def one_of_each():
    """A recorded model of every `model_type`."""
    found = {}
    for read, paths in ((golden.dense, golden.DENSE), (golden.sparse, golden.SPARSE)):
        for path in paths:
            kind = json.loads((path / "config.json").read_text())["model_type"]
            found.setdefault(kind, (read, path))
    return found


FOUND = one_of_each()
every = pytest.mark.parametrize("kind", sorted(FOUND))


def step(name, model, start, frozen):
    """(parameters before and after a step, its metrics)."""
    method, made = tiny.make(name, model), []

    def tx_of(params):
        made.append(optim.make_optimizer(tiny.optimizer(), params, 100))
        return made[-1]

    state = stepping.make_state(method, tx_of, jax.random.key(0), start)
    before = jax.tree.map(np.asarray, state.params)
    batch = jax.tree.map(jnp.asarray, tiny.batch(name, 0, ROWS))
    if method.annotate:
        batch |= jax.jit(method.annotate)(frozen, batch)
    batch, _, _ = method.collect(state, frozen, batch, jax.random.key(1))
    state, metrics = update.make_update(method.loss, made[-1])(
        state, frozen, batch, jax.random.key(0)
    )
    return before, state.params, metrics


def moved(before, after):
    """Names of the leaves that a step changed; all of which stay numbers."""
    after = trees.named_leaves(after)
    assert all(np.isfinite(np.asarray(x)).all() for x in after.values())
    return {n for n, x in trees.named_leaves(before).items() if (x != np.asarray(after[n])).any()}


@every
def test_a_step_of_sft_moves_every_weight(kind):
    read, path = FOUND[kind]
    found = read(path)
    before, after, metrics = step(
        "sft", golden.model_of(found), {"policy": jax.tree.map(jnp.array, found.params)}, {}
    )
    still = trees.named_leaves(before).keys() - moved(before, after)
    assert all(name.endswith(("correction", "scalar")) for name in still), still
    assert all(math.isfinite(float(m.value)) for m in metrics.values())


@every
def test_a_step_of_dpo_moves_adapters(kind):
    read, path = FOUND[kind]
    found = read(path)
    model = adapt.adapt(transformer.transformer(found.stored.config), LORA)
    own = jax.jit(model.init)(jax.random.key(3))
    frozen = {"base": found.params, "reference": adapt.empty(own)}
    before, after, metrics = step("dpo", model, {"policy": own}, frozen)
    assert abs(float(metrics["dpo"].value) - math.log(2)) < 1e-6
    assert {name for name in moved(before, after) if name.endswith("up")}
