"""Steps of a method on groups of samples, from prompts to updates, with a tiny model."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from alignjax import training
from alignjax.core import mean
from alignjax.rewards import scores
from tests.rollouts import hand, learner
from tests.training import tiny

ROWS = 4  # prompts of a batch


def config(**changes: Any) -> Any:
    """DAPO's loss of 4 groups of 4; the reward is the learner's."""
    return hand.config(**{"group": 4, **changes})


def batch(step: int, rows: int = ROWS) -> dict[str, np.ndarray]:
    """Prompts of a step, with their numbers."""
    index = np.arange(step * rows, (step + 1) * rows, dtype=np.int32)
    return {**tiny.prompts(step, rows), "index": index}


def low_tokens(frozen: Any, samples: Any, columns: Any) -> Any:
    """A reward of many values that depends on a row's own tokens: the share of low ids."""
    low = (samples.tokens < tiny.VOCAB // 2) & samples.mask
    tokens = jnp.maximum(jnp.sum(samples.mask, axis=1), 1)
    return (jnp.sum(low, axis=1) / tokens).astype(jnp.float32)


def always(value: float, failed: float = 0.0, part: str = "gold") -> Callable[..., scores.Scores]:
    """A reward of one value; a share of rows, the first ones, fails."""

    def reward(frozen: Any, samples: Any, columns: Any) -> scores.Scores:
        count = samples.tokens.shape[0]
        lost = jnp.arange(count) < round(failed * count)
        found = jnp.where(lost, jnp.nan, jnp.full(count, value, jnp.float32))
        problems = tuple(f"gold: RuntimeError: no {i}" for i in range(int(lost.sum())))
        return scores.Scores(found, {part: found}, lost, problems[:3])

    return reward


def follow(
    made: Any,
    count: int = 3,
    *,
    model: Any = learner.MODEL,
    rate: float = 0.05,
    rows: int = ROWS,
    micro_batches: int = 1,
    **options: Any,
) -> Iterator[tuple[Any, dict[str, float]]]:
    """(state, metrics) of so many steps from the policy of seed 0."""
    options = {"reward": low_tokens, "prompts": rows, **options}
    method = learner.make(made, micro_batches, model, **options)
    tx = optax.adam(rate)
    state = training.initial_state(method, tx, start={"policy": learner.policy(0, model)})
    steps = training.steps(
        method,
        lambda step: batch(step, rows),
        tx,
        state=state,
        frozen={"reference": learner.policy(9, model)},
        until=count,
        seed=3,
        micro_batches=micro_batches,
    )
    for state, metrics in steps:
        yield jax.device_get(state), mean.floats(metrics)


def collect(made: Any, *, model: Any = learner.MODEL, **options: Any) -> Any:
    """(rows, carry, metrics) of the first collection."""
    method = learner.make(made, 1, model, **{"reward": low_tokens, "prompts": ROWS, **options})
    start = {"policy": learner.policy(0, model)}
    state = training.initial_state(method, optax.sgd(0.1), start=start)
    columns = {name: jnp.asarray(x) for name, x in batch(0).items()}
    frozen = {"reference": learner.policy(9, model)}
    return method.collect(state, frozen, columns, jax.random.key(1))
