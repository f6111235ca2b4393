"""Losses read the head where tokens count, and only the statistics that they need."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.models import transformer
from tests.losses import test_logprobs
from tests.training import tiny

MODEL = transformer.transformer(tiny.shape())


def without_prompts(model):
    """The model with NaN for all states that predict no answer's token."""

    def hidden(*args, **kwargs):
        states, cache = model.hidden(*args, **kwargs)
        slot = jnp.arange(states.shape[1])[None, :, None]
        return jnp.where(slot < tiny.PROMPT - 1, jnp.nan, states), cache

    return model._replace(hidden=hidden, hidden_and_penalties=None)


@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_prompts_never_reach_the_head(name):
    found = []
    for model in (MODEL, without_prompts(MODEL)):
        method, state, frozen, _ = tiny.ready(name, model)
        batch = tiny.batch(name, 0, 4)
        if method.annotate is not None:
            batch |= method.annotate(frozen, batch)
        loss = functools.partial(method.loss, frozen=frozen, batch=batch, key=jax.random.key(0))
        slope = jax.grad(lambda p, loss=loss: sum(x.total for x in loss(p)[0].values()))
        found.append((loss(state.params)[0], slope(state.params)))
        program = jax.make_jaxpr(slope)(state.params)
        assert "argmax" not in test_logprobs.operations(program.jaxpr)
    terms, other = (jax.tree.leaves(x[0]) for x in found)
    np.testing.assert_array_equal(terms, other)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found[0][1]))
