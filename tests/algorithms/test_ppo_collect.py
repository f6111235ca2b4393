"""PPO's collection in parts: the same experience, in no more memory than an update."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.algorithms import ppo
from alignjax.algorithms import ppo_experience as rollouts
from alignjax.core import struct
from alignjax.models import transformer
from alignjax.rewards import learned
from alignjax.sampling import plan, transforms
from alignjax.training import optim, stepping, update
from tests.training import tiny

MODEL = transformer.transformer(tiny.shape())
ROWS = 8


def learner(model, config, micro_batches):
    """PPO on its reward model, as a run of so many micro-batches makes it."""
    chunks = config.minibatches * micro_batches
    score = learned.learned(model, chunks=chunks)
    return ppo.ppo(
        model, config, reward=score, eos=tiny.EOS, pad=tiny.PAD, micro_batches=micro_batches
    )  # fmt: skip


@functools.cache
def collected(name, micro_batches):
    """(rows, carry, metrics) of one collection by a policy that has left its reference."""
    changes = {"shared": {"shared_critic": True}, "trl": {"compat": "trl-1.12"}}.get(name, {})
    config = tiny.ppo_config(minibatches=1, target_kl=0.1, missing_eos_penalty=0.5, **changes)
    ready = tiny.ready("ppo-shared" if name == "shared" else "ppo", MODEL)
    method = learner(MODEL, config, micro_batches)
    noise = jax.random.normal(jax.random.key(4), (MODEL_WIDTH,))
    params = jax.tree.map(lambda x: x + noise if x.shape == noise.shape else x,
                          ready.state.params)  # fmt: skip
    state = struct.replace(ready.state, params=params)
    batch = {k: jnp.asarray(x) for k, x in tiny.batch("ppo", 0, ROWS).items()}
    return jax.device_get(method.collect(state, ready.frozen, batch, jax.random.key(1)))


MODEL_WIDTH = tiny.shape().width


@pytest.mark.parametrize(
    ("name", "micro_batches"),
    [
        ("own", 4),
        *(pytest.param(n, 4, marks=pytest.mark.slow) for n in ("shared", "trl")),
        pytest.param("own", 8, marks=pytest.mark.slow),
    ],
)
def test_parts_collect_the_same_experience(name, micro_batches):
    whole, parts = collected(name, 1), collected(name, micro_batches)
    rows, metrics = whole[0], whole[2]
    assert float(np.abs(metrics["kl"].value)) > 0.01
    assert np.ptp(rows["loss_mask"].sum(1)) > 0  # ragged
    for column in ("tokens", "loss_mask", "segments", "positions"):
        np.testing.assert_array_equal(rows[column], parts[0][column])
    for column in rollouts.COLLECTED:
        np.testing.assert_allclose(rows[column], parts[0][column], rtol=1e-4, atol=2e-5)
    for one in metrics:
        if one != "drift":  # a difference of roundings
            np.testing.assert_allclose(
                metrics[one].value, parts[2][one].value, rtol=1e-4, atol=1e-5
            )
    np.testing.assert_allclose(*(x[1]["kl_coefficient"] for x in (whole, parts)), rtol=1e-5)


# --- memory -------------------------------------------------------------------------------------

LENGTH, MANY = 48, 32
SHAPE = tiny.shape(layers=2, width=32, ff=64)


@functools.cache
def temporaries(micro_batches):
    """Bytes that PPO's programs take beside their arguments and results, by name."""
    model = transformer.transformer(SHAPE)
    sampling = transforms.SamplingConfig(max_new_tokens=LENGTH - tiny.PROMPT)
    config = tiny.ppo_config(minibatches=1, epochs=1, sampling=sampling)
    method = learner(model, config, micro_batches)
    policy = jax.eval_shape(model.init, jax.random.key(0))
    scored = jax.eval_shape(model.with_scalar, policy)
    frozen = {"reference": policy, "reward": scored}
    params = {"policy": policy, "value": scored}
    tx = optim.make_optimizer(tiny.optimizer(), params, 10)
    samples = plan.samples(MANY, LENGTH)
    scores = jax.ShapeDtypeStruct((MANY,), jnp.float32)
    number = jax.ShapeDtypeStruct((), jnp.float32)
    networks = rollouts.Networks(model, model, model)
    experience = rollouts.make_experience(networks, config, chunks=micro_batches)
    rows, _ = jax.eval_shape(experience, params, frozen, samples, scores, number)
    state = jax.eval_shape(
        lambda s: stepping.make_state(method, lambda p: tx, jax.random.key(0), s), params
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    run = update.make_update(method.loss, tx, micro_batches=micro_batches)
    score = learned.make_score(model, chunks=micro_batches)
    lowered = {
        "experience": experience.lower(params, frozen, samples, scores, number),
        "score": score.lower(scored, jax.eval_shape(learned.as_batch, samples)),
        "update": run.lower(state, frozen, rows, key),
    }
    return {
        name: program.compile().memory_analysis().temp_size_in_bytes
        for name, program in lowered.items()
    }


@pytest.mark.slow
def test_collecting_in_parts_takes_less_memory_and_not_more_than_the_update():
    whole, parts = temporaries(1), temporaries(4)
    for program in ("experience", "score"):
        assert parts[program] < 0.6 * whole[program], (whole, parts)
        assert parts[program] <= parts["update"], parts
        assert whole[program] <= whole["update"], whole
    print(whole, parts)
