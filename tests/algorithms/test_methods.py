"""Each method: what it starts from, where its gradient goes, what PPO collects."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.core import errors, struct
from alignjax.models import scoring, transformer
from alignjax.sampling import transforms
from alignjax.training import update
from tests.training import tiny

MODEL = transformer.transformer(tiny.shape())
ROWS = 8


def on_device(batch):
    return {name: jnp.asarray(x) for name, x in batch.items()}


def prepared(name, **changes):
    """A method, its state, its frozen trees, and a batch that its loss can read."""
    method, state, frozen, tx = tiny.ready(name, MODEL, **changes)
    batch = on_device(tiny.batch(name, 0, ROWS))
    if method.annotate:
        batch |= jax.jit(method.annotate)(frozen, batch)
    found = {}
    if name.startswith("ppo"):
        batch, _, found = method.collect(state, frozen, batch, jax.random.key(1))
    return method, state, frozen, tx, batch, found


@pytest.mark.parametrize("name", tiny.METHODS)
def test_the_first_update_finds_what_the_method_promises(name):
    method, state, frozen, tx, batch, found = prepared(name)
    _, metrics = update.make_update(method.loss, tx)(state, frozen, batch, jax.random.key(0))
    first = method.first(batch)
    for key, expected in first.items():
        value = {**found, **metrics}[key].value
        assert abs(float(value) - expected.value) <= expected.tolerance
    promised = {
        "dpo": ("dpo", math.log(2)),
        "reward": ("bradley_terry", math.log(2)),
        "ppo": ("ratio_deviation", 0.0),
        "ppo-shared": ("ratio_deviation", 0.0),
    }
    if name in promised:
        key, value = promised[name]
        assert first[key].value == pytest.approx(value, abs=1e-7)
        assert abs(float(metrics[key].value) - value) < 1e-5
    else:
        assert not first
        assert abs(float(metrics["nll"].value) - math.log(tiny.VOCAB)) < 0.3
    if found:
        np.testing.assert_allclose(found["kl"].value, 0.0, atol=1e-4)
        assert float(found["drift"].value) < 1e-4
        assert float(metrics["clip_fraction"].value) == 0.0


def logit_gradient(method, state, frozen, batch):
    """d loss / d (a number added to the log-probability of each token), by a spy on the model."""
    nudge = jnp.zeros(batch["tokens"].reshape(-1, tiny.LENGTH).shape)

    def objective(nudge):
        def spied(hidden, matrix, tokens, **kwargs):
            stats = original(hidden, matrix, tokens, **kwargs)
            # What the state of one token says is about the next.
            return struct.replace(stats, logprob=stats.logprob + jnp.roll(nudge, -1, axis=1))

        original = scoring.logprobs.token_stats
        scoring.logprobs.token_stats = spied
        try:
            terms, _ = method.loss(state.params, frozen, batch, jax.random.key(0))
        finally:
            scoring.logprobs.token_stats = original
        return sum(term.value for term in terms.values())

    return np.asarray(jax.grad(objective)(nudge))


@pytest.mark.parametrize("name", ["pretrain", "sft", "dpo", "ppo"])
def test_prompts_and_padding_get_no_gradient(name):
    if name == "ppo":
        method, state, frozen, _, batch, _ = prepared("ppo")
        nudge_shape = batch["tokens"].shape
        assert nudge_shape[1] == tiny.PROMPT + tiny.NEW
        original, tiny.LENGTH = tiny.LENGTH, nudge_shape[1]
        try:
            found = logit_gradient(method, state, frozen, batch)
        finally:
            tiny.LENGTH = original
        counted = np.asarray(batch["loss_mask"])
    else:
        method, state, frozen, _, batch, _ = prepared(name)
        found = logit_gradient(method, state, frozen, batch)
        counted = np.asarray(batch["loss_mask"]).reshape(found.shape)
        segments = np.asarray(batch["segments"]).reshape(found.shape)
        assert not (counted & (segments == 0)).any()
    assert counted.any()
    assert not counted.all()
    np.testing.assert_array_equal(found[~counted], 0.0)
    assert np.all(found[counted] != 0)
    if name in ("pretrain", "sft"):
        np.testing.assert_allclose(found[counted], -1 / counted.sum(), rtol=1e-5)
    if name == "dpo":  # at equal policies d loss / d log pi is -+ beta / 2 a pair
        sign = np.where(np.arange(2 * ROWS) % 2 == 0, -1.0, 1.0)[:, None]
        expected = np.broadcast_to(sign * 0.5 * 0.5 / ROWS, found.shape)[counted]
        np.testing.assert_allclose(found[counted], expected, rtol=1e-4)


def test_a_dpo_step_lifts_the_chosen_and_lowers_the_rejected():
    method, state, frozen, tx, batch, _ = prepared("dpo")
    run = update.make_update(method.loss, tx)
    for step in range(4):
        state, metrics = run(state, frozen, batch, jax.random.key(step))
    assert float(metrics["chosen_reward"].value) > 0 > float(metrics["rejected_reward"].value)
    assert float(metrics["accuracy"].value) > 0.9
    assert float(metrics["dpo"].value) < math.log(2)


def test_dpo_metrics_are_those_of_the_log_ratios():
    method, state, frozen, _, batch, _ = prepared("dpo", label_smoothing=0.1)
    ratios = np.random.default_rng(0).normal(size=(ROWS, 2)).astype(np.float32)
    spread = batch["loss_mask"] / np.sum(batch["loss_mask"], axis=-1, keepdims=True)
    batch["reference_logprobs"] = batch["reference_logprobs"] - ratios[..., None] * spread
    terms, metrics = method.loss(state.params, frozen, batch, jax.random.key(0))
    margin = 0.5 * (ratios[:, 0] - ratios[:, 1])
    by_hand = np.mean(0.9 * np.log1p(np.exp(-margin)) + 0.1 * np.log1p(np.exp(margin)))
    np.testing.assert_allclose(terms["dpo"].value, by_hand, rtol=1e-4)
    np.testing.assert_allclose(metrics["accuracy"].value, np.mean(margin > 0), rtol=1e-6)
    np.testing.assert_allclose(metrics["margin"].value, margin.mean(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["dpo", "reward"])
def test_comparisons_of_several_answers_are_those_of_pairs(name):
    """Three answers a prompt, with comparisons left out, equal the same pairs one by one."""
    method, state, frozen, _ = tiny.ready(name, MODEL)
    if name == "reward":
        head = jax.random.normal(jax.random.key(2), state.params.scalar.shape)
        state = struct.replace(state, params=struct.replace(state.params, scalar=head))
    answers = tiny.rows(4, ROWS, 3)
    every = np.array([[1, 0], [2, 0], [1, 2]], np.int32)
    keep = np.random.default_rng(0).random((ROWS, 3)) < 0.6
    keep[0] = False  # a prompt without any comparison
    reference = np.random.default_rng(1).normal(-2, 1, answers["tokens"].shape).astype(np.float32)
    batch = {**answers, "preferred": np.tile(every, (ROWS, 1, 1)), "pair_mask": keep}
    prompts, numbers = np.nonzero(keep)
    pairs = {k: x[prompts[:, None], every[numbers]] for k, x in answers.items()}
    if name == "dpo":
        batch["reference_logprobs"] = reference
        pairs["reference_logprobs"] = reference[prompts[:, None], every[numbers]]
    gradients = update.make_gradients(method.loss, micro_batches=1)
    parts = update.make_gradients(method.loss, micro_batches=4)
    key = jax.random.key(0)
    found = [
        jax.jit(run)(state.params, frozen, on_device(given), key)
        for run, given in ((gradients, pairs), (gradients, batch), (parts, batch))
    ]
    for other, metrics in found[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found[0][0], other
        )
        for one in metrics:
            np.testing.assert_allclose(metrics[one].value, found[0][1][one].value, rtol=1e-4)
        assert float(metrics["accuracy"].weight) == keep.sum()


def test_a_reward_step_raises_the_margin_and_starts_from_the_policy():
    method, state, frozen, tx, batch, _ = prepared("reward")
    np.testing.assert_array_equal(state.params.scalar, 0.0)
    np.testing.assert_array_equal(state.params.embed, frozen["reference"].embed)
    run = update.make_update(method.loss, tx)
    for step in range(4):
        state, metrics = run(state, frozen, batch, jax.random.key(step))
    assert float(metrics["margin"].value) > 0
    assert float(metrics["accuracy"].value) > 0.9


def test_the_trained_tree_shares_no_buffer_with_what_is_frozen():
    """The update donates its state: a shared buffer would take the reference with it."""
    for name in ("dpo", "ppo"):
        method, state, frozen, tx, batch, _ = prepared(name)
        update.make_update(method.loss, tx)(state, frozen, batch, jax.random.key(0))
        assert not any(x.is_deleted() for x in jax.tree.leaves(frozen))


# --- PPO's collection ---------------------------------------------------------------------------


def collected(rule=tiny.count_fives, seed=1, carry=None, policy=None, **changes):
    """(rows, carry, metrics, state, frozen) of one collection on a fixed reward rule."""
    method, state, frozen, _ = tiny.ready("ppo", MODEL, reward=rule, **changes)
    if carry is not None:
        state = struct.replace(state, carry={"kl_coefficient": jnp.float32(carry)})
    if policy is not None:
        state = struct.replace(state, params={**state.params, "policy": policy(state.params)})
    batch = on_device(tiny.batch("ppo", 0, ROWS))
    rows, carry, metrics = method.collect(state, frozen, batch, jax.random.key(seed))
    return jax.tree.map(np.asarray, (dict(rows), carry, metrics)), state, frozen


def moved(params):
    noise = jax.random.normal(jax.random.key(4), params["policy"].norm.shape)
    return struct.replace(params["policy"], norm=params["policy"].norm + noise)


def test_the_score_lands_on_the_last_token_of_a_completion():
    """With gamma = lambda = 1 and zero values the return is the reward still to come."""

    def three(frozen, samples, columns):
        return jnp.full(samples.lengths.shape, 3.0)

    plain = {"decay": 1.0, "whiten_advantages": False, "kl_coefficient": 0.0}
    (rows, _, metrics), _, _ = collected(three, **plain)
    mask = rows["loss_mask"]
    values = rows["old_values"]
    np.testing.assert_allclose(rows["returns"][mask], 3.0, rtol=1e-5)
    np.testing.assert_allclose(rows["advantages"][mask], (3.0 - values)[mask], rtol=1e-4, atol=1e-5)
    assert float(metrics["score"].value) == 3.0
    # Discounted, a return tells how many tokens away the reward is: 0 at the last one.
    (rows, _, _), _, _ = collected(three, **{**plain, "discount": 0.5})
    for row, kept, tokens in zip(rows["returns"], rows["loss_mask"], rows["tokens"], strict=True):
        count = int(kept.sum())
        np.testing.assert_allclose(row[kept], 3.0 * 0.5 ** np.arange(count)[::-1], rtol=1e-5)
        ended = tokens[kept] == tiny.EOS
        assert not ended[:-1].any()  # EOS is the last token that counts


def test_each_token_pays_its_own_kl():
    beta = 0.7
    plain = {"decay": 1.0, "whiten_advantages": False, "kl_coefficient": beta}
    (rows, _, metrics), state, frozen = collected(policy=moved, **plain)
    mask = rows["loss_mask"]
    batch = on_device({k: rows[k] for k in ("tokens", "loss_mask", "segments", "positions")})
    logprobs = [
        np.asarray(scoring.token_stats(MODEL, tree, batch).logprob)
        for tree in (state.params["policy"], frozen["reference"])
    ]
    ratio = np.where(mask, logprobs[0] - logprobs[1], 0.0)
    assert np.abs(ratio).max() > 0.1
    fives = ((rows["tokens"] == 5) & mask).sum(1)
    reward = -beta * ratio
    for row, kept in enumerate(mask):
        reward[row, np.flatnonzero(kept)[-1]] += fives[row]
    to_come = np.cumsum(reward[:, ::-1], axis=1)[:, ::-1]
    np.testing.assert_allclose(rows["returns"][mask], to_come[mask], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(metrics["kl"].value, ratio.sum(1).mean(), rtol=1e-4)
    np.testing.assert_allclose(rows["old_logprobs"][mask], logprobs[0][mask], atol=1e-5)


def test_a_completion_without_eos_pays_the_penalty():
    (_, _, without), _, _ = collected()
    (rows, _, metrics), _, _ = collected(missing_eos_penalty=2.5)
    ended = ((rows["tokens"] == tiny.EOS) & rows["loss_mask"]).any(1)
    assert not ended.all()
    np.testing.assert_allclose(metrics["ended"].value, ended.mean())
    paid = float(without["score"].value - metrics["score"].value)
    np.testing.assert_allclose(paid, 2.5 * (1 - ended.mean()), rtol=1e-5)


def test_advantages_are_whitened_over_the_whole_batch():
    (rows, _, _), _, _ = collected()
    kept = rows["advantages"][rows["loss_mask"]]
    np.testing.assert_allclose([kept.mean(), kept.std()], [0, 1], atol=1e-4)
    np.testing.assert_array_equal(rows["advantages"][~rows["loss_mask"]], 0)


def test_the_adaptive_coefficient_moves_towards_its_target():
    changes = {"target_kl": 0.02, "kl_horizon": 80, "carry": 0.1}
    (_, low, metrics), _, _ = collected(**changes)
    assert float(metrics["kl"].value) < 0.01  # the policy is the reference
    np.testing.assert_allclose(low["kl_coefficient"], 0.1 * (1 - 0.2 * ROWS / 80), rtol=1e-5)
    (_, high, metrics), _, _ = collected(policy=moved, **changes)
    assert float(metrics["kl"].value) > 0.03
    np.testing.assert_allclose(high["kl_coefficient"], 0.1 * (1 + 0.2 * ROWS / 80), rtol=1e-5)
    (_, fixed, _), _, _ = collected(carry=0.1)
    assert float(fixed["kl_coefficient"]) == np.float32(0.1)


def test_a_sampler_that_drifts_stops_the_run():
    with pytest.raises(errors.Failure, match="sampler and trainer log-probabilities differ"):
        collected(max_drift=1e-12)


@pytest.mark.parametrize("cut", [{"top_k": 3}, {"top_p": 0.9}, {"temperature": 0.0}])
def test_a_cut_law_is_refused(cut):
    with pytest.raises(ValueError, match="must not cut tokens off"):
        tiny.make("ppo", MODEL, sampling=transforms.SamplingConfig(max_new_tokens=2, **cut))


def test_temperature_is_the_same_in_sampling_and_training():
    sampling = transforms.SamplingConfig(max_new_tokens=tiny.NEW, temperature=0.5)
    (_, _, metrics), _, _ = collected(sampling=sampling)
    assert float(metrics["drift"].value) < 1e-4


def test_the_critic_starts_as_the_reward_model_or_with_a_zero_head():
    method, state, frozen, _ = tiny.ready("ppo", MODEL)
    np.testing.assert_array_equal(state.params["value"].scalar, frozen["reward"].scalar)
    bare = method.init(jax.random.key(0), {"policy": frozen["reference"]})
    np.testing.assert_array_equal(bare["value"].scalar, 0.0)
    assert bare["policy"].scalar is None


def test_a_wrong_number_is_refused_by_name():
    for name, value in {"clip": 1.0, "decay": 1.5, "kl_coefficient": -1.0, "epochs": 0}.items():
        with pytest.raises(ValueError, match=f"algorithm.{name}"):
            tiny.ppo_config(**{name: value}).validate()
    with pytest.raises(ValueError, match=r"algorithm.reward must be one of rules, model, gold"):
        tiny.ppo_config(reward="golden").validate()


@pytest.mark.parametrize("score", [0.0, 1e30])
def test_equal_and_extreme_rewards_give_finite_losses(score):
    """R35."""

    def rule(frozen, samples, columns):
        return jnp.full(samples.lengths.shape, score)

    (rows, _, _), state, frozen = collected(rule)
    method = tiny.make("ppo", MODEL, reward=rule)
    terms, _ = method.loss(state.params, frozen, on_device(rows), jax.random.key(0))
    assert np.isfinite(float(terms["policy"].value))
    assert np.isfinite(rows["advantages"]).all()


@pytest.mark.slow
def test_ppo_learns_to_say_five():
    method, state, frozen, tx = tiny.ready(
        "ppo", MODEL, tiny.optimizer(learning_rate=0.02), reward=tiny.count_fives,
        kl_coefficient=0.01,
    )  # fmt: skip
    run = update.make_update(method.loss, tx)
    scores = []
    for step in range(12):
        batch = on_device(tiny.batch("ppo", step, 64))
        rows, carry, found = method.collect(state, frozen, batch, jax.random.key(step))
        state = struct.replace(state, carry=carry)
        for _ in range(2):
            state, _ = run(state, frozen, rows, jax.random.key(step))
        scores.append(float(found["score"].value))
    assert np.mean(scores[-3:]) > np.mean(scores[:3]) + 0.5, scores


@pytest.mark.parametrize("preset", ["trl-1.12", "verl-0.9", "openrlhf-0.11", "tunix-0.1.7"])
def test_ppo_takes_its_losses_from_a_preset(preset):
    """The first update is on policy everywhere; numbers that are None are the preset's."""
    (_, _, _), state, frozen = collected(compat=preset)
    method = tiny.make("ppo", MODEL, reward=tiny.count_fives, compat=preset)
    batch = on_device(tiny.batch("ppo", 0, ROWS))
    rows, _, _ = method.collect(state, frozen, batch, jax.random.key(1))
    terms, metrics = method.loss(state.params, frozen, rows, jax.random.key(0))
    assert float(metrics["ratio_deviation"].value) < 1e-5
    config = tiny.ppo_config(compat=preset)
    values = np.asarray(rows["old_values"])
    error = 0.5 * np.square(values - np.asarray(rows["returns"]))
    mask = np.asarray(rows["loss_mask"])
    if preset == "trl-1.12":  # the slot after an answer counts too
        mask = mask | np.pad(mask, [(0, 0), (1, 0)])[:, :-1]
    wanted = config.value_weight() * error[mask].mean()
    np.testing.assert_allclose(terms["value"].value, wanted, rtol=1e-4, atol=1e-7)
    assert preset in config.formula()


def test_the_last_reward_of_trl_comes_after_the_answer():
    (ours, _, _), _, _ = collected(decay=1.0, kl_coefficient=0.0)
    (theirs, _, _), _, _ = collected(decay=1.0, kl_coefficient=0.0, compat="trl-1.12")
    mask = ours["loss_mask"]
    after = np.pad(mask, [(0, 0), (1, 0)])[:, :-1] & ~mask
    after[:, 0] = False
    assert after.any()
    np.testing.assert_allclose(ours["returns"][mask], theirs["returns"][mask], atol=1e-5)
    assert (ours["returns"][after] == 0).all()
    fives = ((ours["tokens"] == 5) & mask).sum(1)
    np.testing.assert_allclose(theirs["returns"].max(1)[fives > 0], fives[fives > 0], rtol=1e-5)
