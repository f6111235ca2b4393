"""Bugs that leave shapes and most numbers as they are: the first step, or a sum by hand, notices.

Planted: the reference at another temperature than the policy, the critic one token late, the better
answer taken for the worse, a reference of other weights, the score on another token.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax import training
from alignjax.algorithms import ppo_experience as rollouts
from alignjax.core import errors, struct
from alignjax.models import scoring, transformer
from alignjax.sampling import transforms
from alignjax.training import update
from tests.training import tiny

MODEL = transformer.transformer(tiny.shape())
ROWS, TEMPERATURE = 8, 0.5


def learner():
    """PPO at a temperature, ready."""
    sampling = transforms.SamplingConfig(max_new_tokens=tiny.NEW, temperature=TEMPERATURE)
    return tiny.ready("ppo", MODEL, sampling=sampling, minibatches=1, epochs=1)


def first_step(ready, frozen, batch):
    """The first step of a run."""
    tx = optax.sgd(0.1)
    state = struct.replace(ready.state, opt_state=tx.init(ready.state.params))
    state = jax.tree.map(jnp.copy, state)
    return next(training.steps(ready.method, [batch], tx, state=state, frozen=frozen))


def shaken(tree):
    """The same shapes, other weights."""
    noise = jax.random.normal(jax.random.key(4), tree.norm.shape)
    return struct.replace(tree, norm=tree.norm + noise)


# --- noticed by the first step of a run ---------------------------------------------------------


def test_a_sound_first_step_passes():
    ready = learner()
    _, metrics = first_step(ready, ready.frozen, tiny.batch("ppo", 0, ROWS))
    assert abs(float(metrics["kl"].value)) < 1e-5


def test_a_reference_of_other_weights_stops_ppo():
    ready = learner()
    frozen = {**ready.frozen, "reference": shaken(ready.frozen["reference"])}
    with pytest.raises(errors.Failure, match="the first update must find kl = 0 within"):
        first_step(ready, frozen, tiny.batch("ppo", 0, ROWS))


def test_a_reference_at_another_temperature_stops_ppo(monkeypatch):
    """The policy is scored by `stats_of`, the reference by `token_stats`."""
    plain = scoring.token_stats

    def at_one(model, params, batch, *, temperature, **options):
        return plain(model, params, batch, **options)

    monkeypatch.setattr(scoring, "token_stats", at_one)
    ready = learner()
    with pytest.raises(errors.Failure, match="the first update must find kl = 0 within"):
        first_step(ready, ready.frozen, tiny.batch("ppo", 0, ROWS))


# --- noticed by a sum by hand -------------------------------------------------------------------


def collected(ready):
    batch = {name: jnp.asarray(x) for name, x in tiny.batch("ppo", 0, ROWS).items()}
    rows, _, metrics = ready.method.collect(ready.state, ready.frozen, batch, jax.random.key(1))
    return {name: np.asarray(x) for name, x in rows.items()}, metrics


def test_a_value_is_of_the_tokens_before_it():
    """Neither the token itself nor anything after it moves a token's value."""
    ready = learner()
    rows, _ = collected(ready)
    networks = rollouts.Networks(MODEL, MODEL, MODEL)
    config = tiny.ppo_config()

    @jax.jit
    def values_of(rows):
        return rollouts.policy_and_values(networks, config, ready.state.params, {}, rows)[1]

    values = np.asarray(values_of(rows))
    np.testing.assert_allclose(values, rows["old_values"], atol=1e-5)
    at = int(rows["loss_mask"][0].argmax()) + 1
    other = {**rows, "tokens": rows["tokens"].copy()}
    other["tokens"][0, at] = 2 + (rows["tokens"][0, at] - 1) % (tiny.VOCAB - 2)
    moved = np.abs(np.asarray(values_of(other)) - values)[0]
    assert moved[: at + 1].max() < 1e-6
    assert moved[at + 1] > 1e-3
    # Alone it is the scalar head of the row cut off before the token.
    short = {name: jnp.asarray(x[:1, :at]) for name, x in rows.items()}
    hidden = scoring.hidden_states(MODEL, ready.state.params["value"], short)
    head = MODEL.scalar(ready.state.params["value"], hidden)[0, -1]
    np.testing.assert_allclose(values[0, at], head, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dpo", "reward"])
def test_the_first_answer_is_the_better_one(name):
    """A step lifts it, whatever the comparison is called by: `preferred` or the order."""
    ready = tiny.ready(name, MODEL)
    table = training.annotated(ready.method, ready.frozen, tiny.batch(name, 0, ROWS), ROWS)
    every = np.tile(np.array([[[1, 0]]], np.int32), (ROWS, 1, 1))
    mask = np.ones((ROWS, 1), bool)
    swapped = {**{k: x[:, ::-1] for k, x in table.items()}, "preferred": every, "pair_mask": mask}
    gradients = [
        jax.jit(update.make_gradients(ready.method.loss))(
            ready.state.params, ready.frozen, batch, jax.random.key(0)
        )[0]
        for batch in (table, swapped)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *gradients)
    params = jax.tree.map(lambda w, g: w - 0.5 * g, ready.state.params, gradients[0])
    _, metrics = ready.method.loss(params, ready.frozen, table, jax.random.key(0))
    assert float(metrics["margin"].value) > 1e-4


def test_every_comparison_of_several_answers_keeps_its_labels():
    """The better one of each, row by row: one swapped in ten would hide in a mean."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 3)).astype(np.float32)
    preferred = np.stack([rng.permutation(3)[:2] for _ in range(80)]).reshape(40, 2, 2)
    batch = {"preferred": preferred.astype(np.int32), "pair_mask": np.ones((40, 2), bool)}
    chosen, rejected, _ = scoring.compared(jnp.asarray(values), batch)
    for row in range(40):
        for pair in range(2):
            better, worse = preferred[row, pair]
            assert float(chosen[row, pair]) == values[row, better]
            assert float(rejected[row, pair]) == values[row, worse]
