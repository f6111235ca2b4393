"""Online DPO, XPO and Nash-MD: what a step trains on, what it does not depend on, where it ends."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax import losses, training
from alignjax.algorithms import nash_md, online_dpo, xpo
from alignjax.core import errors, mean
from alignjax.parallel import mesh as meshes
from alignjax.sampling import transforms
from tests.rollouts import bigram, learner, steps
from tests.training import tiny

SAMPLING = transforms.SamplingConfig(max_new_tokens=tiny.NEW)
OWN = {
    "online_dpo": (
        online_dpo.online_dpo, online_dpo.OnlineDpoConfig, {"beta": 0.5, "group": 3, "pairs": "all"}
    ),
    "extremes": (online_dpo.online_dpo, online_dpo.OnlineDpoConfig, {"beta": 0.5, "group": 4}),
    "xpo": (xpo.xpo, xpo.XpoConfig, {"beta": 0.5, "optimism": 0.01}),
    "nash_md": (nash_md.nash_md, nash_md.NashMdConfig, {"beta": 0.05}),
}  # fmt: skip
NAMES = ("loss", "grad_norm", "reward", "tied", "length")
ROWS = 16  # prompts of a batch


def make(name, model=learner.TABLE, micro_batches=1, reward=steps.low_tokens, **changes):
    maker, kind, own = OWN[name]
    config = kind(**{"reward": "gold", "sampling": SAMPLING, **own, **changes})
    return maker(
        model, config, reward=reward, eos=tiny.EOS, pad=tiny.PAD, micro_batches=micro_batches
    )


def follow(method, count, *, model=learner.TABLE, micro_batches=1, state=None, seed=0):
    """(state, metrics) of steps from the policy of seed 0, which is the reference too."""
    tx = optax.adam(1e-2)
    start = {"policy": learner.policy(seed, model)}
    state = training.initial_state(method, tx, start=start) if state is None else state
    run = training.steps(
        method,
        lambda step: steps.batch(step, ROWS),
        tx,
        state=state,
        frozen={"reference": learner.policy(0, model)},
        until=count,
        seed=3,
        micro_batches=micro_batches,
    )
    for after, metrics in run:
        yield jax.device_get(after), mean.floats(metrics)


@functools.cache
def alone(name):
    return list(follow(make(name), 2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["online_dpo", "xpo", "nash_md"])
def test_a_mesh_and_micro_batches_take_the_same_steps(name):
    wanted = alone(name)  # before anything is laid out on a mesh
    with meshes.use(meshes.make_mesh(meshes.MeshConfig(data=4, model=2))):
        found = list(follow(make(name, micro_batches=2), 2, micro_batches=2))
    for (_, one), (_, other) in zip(found, wanted, strict=True):
        for number in NAMES:
            np.testing.assert_allclose(
                one[number], other[number], rtol=1e-4, atol=1e-5, err_msg=number
            )
    assert wanted[1][1]["grad_norm"] > 1e-3
    learner.assert_close(found[-1][0].params, wanted[-1][0].params, atol=1e-5)


@pytest.mark.slow
def test_a_run_that_goes_on_has_the_same_bits():
    method = make("online_dpo")
    whole = list(follow(method, 3))
    again = list(follow(method, 3, state=jax.tree.map(jnp.asarray, whole[0][0])))
    jax.tree.map(np.testing.assert_array_equal, again[-1][0], whole[-1][0])
    assert int(again[-1][0].step) == 3


def check_pairs(method, model=learner.TABLE):
    """What a step trains on: rows of one prompt, the better one first, ties left out."""
    start = {"policy": learner.policy(0, model)}
    state = training.initial_state(method, optax.sgd(0.1), start=start)
    columns = {name: jnp.asarray(x) for name, x in steps.batch(0, ROWS).items()}
    frozen = {"reference": learner.policy(9, model)}
    rows, carry, metrics = method.collect(state, frozen, columns, jax.random.key(1))
    rows = {name: np.array(x) for name, x in rows.items()}
    low = ((rows["tokens"] < tiny.VOCAB // 2) & rows["loss_mask"]).sum(2)
    rewards = low / rows["loss_mask"].sum(2)
    pair = np.take_along_axis(rewards[:, None], rows["preferred"], axis=2)
    mask = rows["pair_mask"]
    assert mask.any()
    assert (pair[mask][:, 0] > pair[mask][:, 1]).all()
    np.testing.assert_array_equal(pair[~mask][:, 0], pair[~mask][:, 1])
    np.testing.assert_allclose(float(metrics["tied"].value), 1 - mask.any(1).mean(), atol=1e-6)
    assert int(carry["barren"]) == 0
    # The same prompt stands before all answers of a row.
    assert (rows["tokens"][:, :, :2] == rows["tokens"][:, :1, :2]).all()
    return state, frozen, rows


@pytest.mark.slow
def test_ties_weigh_nothing():
    """The loss and its gradient are those of the batch without its tied pairs."""
    method = make("extremes")
    state, frozen, rows = check_pairs(method)
    tied = np.flatnonzero(~rows["pair_mask"][:, 0])
    rows["pair_mask"][:4] = False  # four more
    tied = np.union1d(tied, np.arange(4))
    other = {**rows, "tokens": rows["tokens"].copy()}
    other["tokens"][tied, :, -3:] = 7  # what they say changes nothing

    def loss(params, batch):
        batch = {name: jnp.asarray(x) for name, x in batch.items()}
        terms, _ = method.loss(params, frozen, batch, jax.random.key(0))
        return sum(term.total / term.weight for term in terms.values())

    run = jax.jit(jax.value_and_grad(loss))
    kept = {name: np.delete(x, tied, axis=0) for name, x in rows.items()}
    value, gradient = run(state.params, rows)
    for batch in (other, kept):
        again, other_gradient = run(state.params, batch)
        np.testing.assert_allclose(again, value, rtol=1e-6)
        learner.assert_close(other_gradient, gradient)


def one(value):
    return lambda frozen, samples, columns: jnp.full(samples.lengths.shape, value, jnp.float32)


def test_steps_of_ties_only_are_counted_and_stop_the_run():
    method = make("extremes", reward=one(2.0), patience=2)
    taken = []
    with pytest.raises(errors.Failure, match="2 steps in a row had ties only") as caught:
        taken.extend(follow(method, 4))
    assert "\n" not in str(caught.value)
    assert "mean reward 2" in str(caught.value)
    ((state, metrics),) = taken
    assert int(state.carry["barren"]) == 1
    assert metrics["tied"] == 1.0
    assert metrics["grad_norm"] == 0.0
    jax.tree.map(np.testing.assert_array_equal, state.params, learner.policy(0, learner.TABLE))


@pytest.mark.slow
def test_scores_that_fail_stop_the_run():
    method = make("extremes", reward=steps.always(1.0, 0.25))
    with pytest.raises(errors.Failure, match="rewards must be computed for all but"):
        next(follow(method, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["extremes", "xpo"])
def test_the_reward_that_orders_pairs_rises(name):
    method = make(name)
    rewards = [metrics["reward"] for _, metrics in follow(method, 200)]
    assert np.mean(rewards[-40:]) > np.mean(rewards[:40]) + 0.05


# --- a cyclic game (E20) ------------------------------------------------------------------------

BEATS = np.array([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]])
MOVES = (3, 4, 5)  # tokens
REFERENCE = np.array([0.5, 0.3, 0.2])
BETA, MIX = 0.1, 0.05


def table_of(law):
    """A policy whose one token behind any prompt is of this law."""
    logits = np.full((tiny.VOCAB, tiny.VOCAB), -40.0, np.float32)
    logits[:, MOVES] = np.log(law)
    return {"logits": jnp.asarray(logits)}


def law_of(params):
    return np.asarray(jax.nn.softmax(params["logits"][2]))[list(MOVES)]


def wins(frozen, samples, columns):
    """A judge's chances: of each sample against the other of its prompt."""
    last = jnp.take_along_axis(samples.tokens, samples.prompt_lengths[:, None], axis=1)[:, 0]
    move = (last - MOVES[0]).reshape(-1, 2)
    first = jnp.asarray(BEATS)[move[:, 0], move[:, 1]]
    return jnp.stack([first, 1 - first], axis=1).reshape(-1).astype(jnp.float32)


def last_law(tmp_path, beta, mixture, count=400, rows=512):
    """Where Nash-MD ends on the game, from a policy far off."""
    rule = tmp_path / "judge.json"
    (tmp_path / "judge.py").write_text("def score(texts, tasks):\n    return [0.0] * len(texts)\n")
    rule.write_text(json.dumps({"kind": "rule", "path": f"{tmp_path}/judge.py:score"}))
    config = nash_md.NashMdConfig(
        reward="judge",
        judge=str(rule),
        beta=beta,
        mixture=mixture,
        sampling=transforms.SamplingConfig(max_new_tokens=1),
        patience=count,
    )
    model = bigram.bigram(tiny.VOCAB)
    method = nash_md.nash_md(
        model, config, reward=wins, eos=tiny.EOS, pad=tiny.PAD, reference=model
    )
    tx = optax.sgd(optax.cosine_decay_schedule(4.0, count))
    state = training.initial_state(method, tx, start={"policy": table_of([0.6, 0.2, 0.2])})
    prompts = np.full((rows, 1), 2, np.int32)
    batch = {"prompts": prompts, "lengths": np.ones(rows, np.int32)}
    run = training.steps(
        method,
        lambda step: {**batch, "index": np.arange(rows, dtype=np.int32)},
        tx,
        state=state,
        frozen={"reference": table_of(REFERENCE)},
        until=count,
        seed=1,
    )
    for after, _ in run:
        last = after
    return law_of(last.params)


def equilibrium(beta, mix):
    """The law that is the best answer, regularised, to its mixture with the reference."""
    reference = jnp.log(REFERENCE)

    def gap(z):
        policy = jax.nn.log_softmax(z)
        rival = losses.geometric_mixture(policy, reference, mix=mix)
        x = BEATS @ jnp.exp(rival) / beta - (policy - reference)
        return x - x.mean()

    z = jnp.log(jnp.full(3, 1 / 3))
    for _ in range(40):
        z = z - 0.5 * jnp.linalg.pinv(jax.jacobian(gap)(z)) @ gap(z)
    assert np.abs(gap(z)).max() < 1e-3
    return np.asarray(jax.nn.softmax(z))


@pytest.mark.slow
def test_the_last_iterate_is_the_regularised_nash_point_of_a_cyclic_game(tmp_path):  # E20
    nash = equilibrium(BETA, MIX)
    found = last_law(tmp_path, BETA, MIX)
    assert 0.5 * np.abs(found - nash).sum() < 0.03, (found, nash)
    assert 0.5 * np.abs(nash - equilibrium(BETA, 0.0)).sum() < 0.02  # the mixture hardly moves it
    plain = last_law(tmp_path, 0.0, 0.0)
    assert 0.5 * np.abs(plain - 1 / 3).sum() > 0.2, plain
