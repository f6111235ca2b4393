"""KTO, BCO and APO-zero on single answers: what they read, by hand, and whole-batch statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import compat
from alignjax.algorithms import unpaired
from alignjax.core import struct
from alignjax.data import unpaired as columns
from alignjax.models import scoring, transformer
from alignjax.training import algorithm, method, stepping, update
from tests.training import tiny

MODEL = transformer.transformer(tiny.shape())
ROWS = 16
CASES = [
    ("paper", "kto"),
    ("trl-1.16", "kto"),
    ("paper", "bco"),
    ("trl-1.13", "bco"),
    ("paper", "apo_zero_unpaired"),
    ("trl-1.16", "apo_zero_unpaired"),
]


def table(count=ROWS, good=4):
    rows = tiny.rows(3, count)
    return {**rows, "desirable": np.arange(count) % count < good}


def moved_policy(policy):
    """The policy after a move that changes every log-probability."""
    noise = 0.3 * jax.random.normal(jax.random.key(4), policy.norm.shape)
    return struct.replace(policy, norm=policy.norm + noise)


def prepared(config, data=None, micro_batches=1, move=True):
    """(method, state, frozen, batch as `collect` gives it, its metrics)."""
    own = unpaired.unpaired(MODEL, config, micro_batches=micro_batches)
    policy = jax.jit(MODEL.init)(jax.random.key(7))
    frozen = {"reference": policy}
    rows = algorithm.with_columns(table() if data is None else data, own.prepare)
    rows |= jax.device_get(jax.jit(own.annotate)(frozen, rows))
    rows = algorithm.with_columns(rows, own.over_table)
    state = algorithm.TrainState(
        step=jnp.zeros((), jnp.int32),
        params=moved_policy(policy) if move else policy,
        opt_state=(),
        carry=jax.tree.map(jnp.asarray, own.carry),
    )
    batch = {name: jnp.asarray(x) for name, x in rows.items()}
    batch, carry, metrics = own.collect(state, frozen, batch, jax.random.key(0))
    return own, struct.replace(state, carry=carry), frozen, batch, metrics


def log_ratios(state, frozen, rows):
    own, reference = (
        np.asarray(scoring.token_stats(MODEL, params, rows).logprob)
        for params in (state.params, frozen["reference"])
    )
    return np.sum(np.where(scoring.counted(rows), own - reference, 0), axis=1)


def test_the_cases_are_all_that_there_are():
    every = [(p, n) for p in compat.PRESETS for n in compat.fitting(p, "unpaired")]
    assert set(every) == set(CASES)


def test_an_answer_is_set_against_the_prompt_of_the_row_before_it():
    rows = {
        "tokens": np.array([[5, 6, 7, 8, 0], [9, 10, 11, 12, 13]], np.int32),
        "loss_mask": np.array([[0, 0, 1, 1, 0], [0, 0, 0, 1, 1]], bool),
        "segments": np.array([[1, 1, 1, 1, 0], [1] * 5], np.int32),
        "positions": np.tile(np.arange(5, dtype=np.int32), (2, 1)),
    }
    made = columns.mismatched(rows)
    assert made["mismatched_tokens"].tolist() == [[5, 6, 12, 13, 0], [9, 10, 11, 7, 8]]
    assert made["mismatched_loss_mask"].tolist() == [[0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]
    assert made["mismatched_segments"].tolist() == [[1, 1, 1, 1, 0], [1] * 5]
    with pytest.raises(ValueError, match="unpaired answers must be at least 2"):
        columns.mismatched({name: x[:1] for name, x in rows.items()})


def test_kinds_weigh_alike_by_their_counts_unless_set():
    assert columns.class_weights(np.array([1, 0, 0, 0], bool)) == (3.0, 1.0)
    assert columns.class_weights(np.array([1, 1, 1, 0], bool)) == (1.0, 3.0)
    assert columns.class_weights(np.ones(3, bool)) == (1.0, 1.0)
    *_, batch, _ = prepared(unpaired.UnpairedConfig())
    assert float(batch["desirable_weight"][0]) == 3.0  # 4 of 16
    *_, batch, _ = prepared(unpaired.UnpairedConfig(desirable_weight=1.5))
    assert "desirable_weight" not in batch


def test_kto_by_hand():
    config = unpaired.UnpairedConfig(beta=0.5)
    own, state, frozen, batch, metrics = prepared(config)
    swapped = {n: batch[f"mismatched_{n}"] for n in unpaired.ROWS}
    point = max(0.0, log_ratios(state, frozen, swapped).mean())
    np.testing.assert_allclose(metrics["reference_point"].value, point, rtol=1e-4, atol=1e-6)
    u = log_ratios(state, frozen, batch)
    good = np.asarray(batch["desirable"])
    sigmoid = 1 / (1 + np.exp(-0.5 * (u - point)))
    by_hand = np.where(good, 3.0 * (1 - sigmoid), sigmoid).mean()
    terms, loss_metrics = own.loss(state.params, frozen, batch, jax.random.key(0))
    np.testing.assert_allclose(terms["kto"].value, by_hand, rtol=1e-4)
    np.testing.assert_allclose(
        loss_metrics["desirable_reward"].value, 0.5 * u[good].mean(), rtol=1e-3
    )


@pytest.mark.parametrize(("preset", "by_kind"), [("paper", True), ("trl-1.13", False)])
def test_the_shift_of_bco_is_a_running_mean_of_all_batches(preset, by_kind):
    config = unpaired.UnpairedConfig(method="bco", compat=preset, beta=0.5)
    own, state, frozen, batch, metrics = prepared(config)
    rewards = 0.5 * log_ratios(state, frozen, batch)
    good = np.asarray(batch["desirable"])

    def shift(rewards, good):
        kinds = 0.5 * (rewards[good].mean() + rewards[~good].mean())
        return kinds if by_kind else rewards.mean()

    np.testing.assert_allclose(metrics["shift"].value, shift(rewards, good), rtol=1e-4, atol=1e-6)
    half = {name: x[:8] for name, x in batch.items()}
    _, _, metrics = own.collect(state, frozen, half, jax.random.key(0))
    both = np.concatenate([rewards, rewards[:8]]), np.concatenate([good, good[:8]])
    np.testing.assert_allclose(metrics["shift"].value, shift(*both), rtol=1e-4, atol=1e-6)


def test_udm_weighs_undesirable_answers_by_their_prompts():
    config = unpaired.UnpairedConfig(method="bco", udm=True)
    *_, batch, _ = prepared(config)
    assert "prompt_state" not in batch
    probability = np.asarray(batch["desirable_probability"])
    good = np.asarray(batch["desirable"])
    assert ((probability > 0) & (probability < 1)).all()
    assert probability[good].mean() > probability[~good].mean()


def test_a_logistic_regression_tells_prompts_apart():
    rng = np.random.default_rng(0)
    desirable = rng.random(400) < 0.5
    states = rng.normal(size=(400, 3)) + 2.0 * desirable[:, None]
    probability = columns.desirable_probability(states, desirable)
    assert ((probability > 0.5) == desirable).mean() > 0.9
    noise = columns.desirable_probability(rng.normal(size=(400, 3)), desirable)
    assert abs(noise.mean() - desirable.mean()) < 0.01


@pytest.mark.parametrize(("preset", "name"), CASES)
def test_micro_batches_change_nothing(preset, name):
    config = unpaired.UnpairedConfig(method=name, compat=preset)
    results = []
    for parts in (1, 4):
        own, state, frozen, batch, metrics = prepared(config, micro_batches=parts)
        run = update.make_gradients(own.loss, micro_batches=parts)
        gradients, loss_metrics = jax.jit(run)(state.params, frozen, batch, jax.random.key(0))
        results.append((gradients, {**loss_metrics, **metrics}))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
        results[0][0],
        results[1][0],
    )
    for metric in results[0][1]:
        one, other = (found[1][metric].value for found in results)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("preset", "name"), CASES)
def test_the_first_loss_is_known_and_a_wrong_reference_is_noticed(preset, name):
    config = unpaired.UnpairedConfig(method=name, compat=preset)
    own, state, frozen, batch, _ = prepared(config, move=False)
    expected = own.first(batch)
    _, metrics = own.loss(state.params, frozen, batch, jax.random.key(0))
    stepping.check_first(expected, metrics)
    off = {**batch, "reference_logprobs": batch["reference_logprobs"] + 0.1}
    _, metrics = own.loss(state.params, frozen, off, jax.random.key(0))
    with pytest.raises(RuntimeError, match="the first update must find"):
        stepping.check_first(expected, metrics)


def test_a_batch_of_one_is_refused():
    task = method.Task(eos=1, pad=0, length=12, prompt_length=4, batch_size=1)
    record = unpaired.UnpairedConfig.METHOD
    with pytest.raises(ValueError, match=r"loop\.batch_size must be at least 2"):
        record.make({"policy": MODEL, "reference": MODEL}, unpaired.UnpairedConfig(), task)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "dpo"}, "method of paper on unpaired must be one of .*It is one on pairs"),
        ({"method": "bco", "desirable_weight": 2.0}, "option of paper bco must be one of"),
        ({"beta": 0.0}, "beta must be finite and > 0"),
    ],
)
def test_a_bad_config_is_one_line(changes, message):
    with pytest.raises(ValueError, match=message):
        unpaired.UnpairedConfig(**changes).validate()


def test_the_area_under_the_curve():
    scores, good = np.array([3.0, 1.0, 2.0, 2.0]), np.array([True, False, True, False])
    found = unpaired.area(scores, good)
    assert found.value == pytest.approx((2 + 1.5) / 4)
    assert unpaired.area(np.zeros(4), good).value == 0.5
