"""Methods on groups of samples over a tiny model: rows that they train on, gradients of them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import compat
from alignjax.algorithms import policy_gradient
from alignjax.core import struct
from alignjax.models import transformer
from alignjax.rollouts import experience, rollouts
from alignjax.training import update
from tests.rollouts import bigram, hand
from tests.training import tiny

MODEL = transformer.transformer(tiny.shape())
TABLE = bigram.bigram(tiny.VOCAB)
KEY = jax.random.key(0)


def methods() -> list[tuple[str, str]]:
    """(preset, method) of every loss on rollouts that these methods can train on."""
    without = policy_gradient.PolicyGradientConfig.WITHOUT
    found = []
    for preset in compat.PRESETS:
        for name in compat.fitting(preset, "rollouts", without):
            if "advantages" in compat.recipe(preset, name).reads:
                found.append((preset, name))
    return found


@functools.cache
def policy(seed: int = 0, model: Any = MODEL) -> Any:
    """Parameters; each seed a step away from that of seed 0."""
    params = jax.jit(model.init)(KEY)
    if not seed:
        return params
    leaves, structure = jax.tree.flatten(params)
    noise = [
        0.1 * jax.random.normal(jax.random.fold_in(jax.random.key(seed), i), x.shape)
        for i, x in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, [x + n for x, n in zip(leaves, noise, strict=True)])


def make(config: Any, micro_batches: int = 1, model: Any = MODEL, **options: Any) -> Any:
    """The algorithm; the reward counts a token."""
    options = {"reward": tiny.count_fives, "reference": model, "width": tiny.PROMPT, **options}
    return policy_gradient.policy_gradient(
        model, config, eos=tiny.EOS, pad=tiny.PAD, micro_batches=micro_batches, **options
    )


def collected(
    config: Any,
    drawn: Any,
    found: Any,
    *,
    chunks: int = 1,
    greedy: Any = None,
    sampler: Any = None,
    model: Any = MODEL,
) -> tuple[Any, Any, Any]:
    """(rows, told, metrics) of samples that were drawn by a policy, and of its scores."""
    needs = experience.needs_of(config, config.recipe.reads, config.needs)
    networks = experience.Networks(model, model)
    run = experience.make_experience(networks, config, needs, chunks=chunks, multiple=chunks)
    frozen = {"reference": policy(9, model)}
    return run(policy(0, model), sampler, frozen, drawn, found, greedy)


def gradient(
    config: Any, rows: Any, params: Any = None, *, micro_batches: int = 1, model: Any = MODEL
) -> Any:
    """(gradients, metrics) of rows at parameters away from those that drew them."""
    method = make(config, micro_batches, model)
    run = jax.jit(update.make_gradients(method.loss, micro_batches=micro_batches))
    params = policy(1, model) if params is None else params
    return jax.device_get(run(params, {"reference": policy(9, model)}, rows, KEY))


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def assert_close(found: Any, wanted: Any, atol: float = 1e-6) -> None:
    """Trees of gradients are the same, and there is something in them."""
    assert np.abs(flat(wanted)).max() > 1e-4
    np.testing.assert_allclose(flat(found), flat(wanted), atol=atol, rtol=1e-4)


def only(tree: Any, rows: Any) -> Any:
    """Some rows of samples or scores."""
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[rows]), tree)


def drawn(
    prompts: int, size: int, seed: int = 0, model: Any = MODEL, **columns: Any
) -> rollouts.Rollouts:
    """Samples by hand with the log-probabilities that the policy gives them."""
    made = hand.samples(prompts, size, seed, **columns)
    config = hand.config(group=size, epochs=2)
    # All groups differ within, so that they come back in their order.
    rows = collected(config, made, hand.found(np.arange(prompts * size)), model=model)[0]
    logprobs = jnp.where(made.mask, rows["old_logprobs"], 0.0)
    return struct.replace(made, logprobs=logprobs)
