"""Which samples of a prompt make a pair, what a judge says of them, and what is refused."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.algorithms import nash_md, online_dpo, xpo
from alignjax.rewards import judge
from alignjax.rollouts import compared
from alignjax.sampling import transforms
from tests.rollouts import hand
from tests.training import tiny

REWARDS = jnp.array([[0.0, 2.0, 1.0], [1.0, 1.0, 1.0], [3.0, 0.0, 5.0], [1.0, 2.0, 0.0]])
VALID = jnp.array([[1, 1, 1], [1, 1, 1], [1, 1, 0], [0, 1, 0]], bool)


def test_the_best_is_set_against_the_worst_of_those_that_count():
    pairs = compared.extremes(REWARDS, VALID)
    np.testing.assert_array_equal(pairs.mask[:, 0], [True, False, True, False])
    np.testing.assert_array_equal(pairs.places[np.array([0, 2])], [[1, 0], [0, 1]])
    np.testing.assert_array_equal(pairs.preferred, np.tile([[[0, 1]]], (4, 1, 1)))


def test_every_two_that_differ_are_compared_the_better_first():
    pairs = compared.every(REWARDS, VALID)
    np.testing.assert_array_equal(pairs.preferred[0], [[1, 0], [2, 0], [1, 2]])
    np.testing.assert_array_equal(
        pairs.mask, [[True] * 3, [False] * 3, [True, False, False], [False] * 3]
    )
    np.testing.assert_array_equal(pairs.places[3], [0, 1, 2])


def test_pairs_are_rows_of_their_own_prompt():
    samples = hand.samples(4, 3)
    table = compared.as_pairs(samples, compared.extremes(REWARDS, VALID))
    tokens = np.asarray(samples.tokens).reshape(4, 3, -1)
    np.testing.assert_array_equal(table["tokens"][0], tokens[0][[1, 0]])
    np.testing.assert_array_equal(table["tokens"][2], tokens[2][[0, 1]])
    mask = np.asarray(samples.mask).reshape(4, 3, -1)
    np.testing.assert_array_equal(table["loss_mask"][2], mask[2][[0, 1]])
    whole = compared.as_pairs(samples, compared.every(REWARDS, VALID))
    np.testing.assert_array_equal(whole["tokens"], tokens)


def words(ids):
    return " ".join(str(i) for i in ids)


def test_a_judge_pays_each_sample_the_chance_that_it_wins():
    samples = hand.samples(3, 2)
    asked = []

    def longer(prompts, answers):
        asked.extend(prompts)
        lengths = np.array([len(answer.split()) for answer in answers], float)
        return np.where([prompt == words_of(2) for prompt in prompts], np.nan, lengths)

    starts, ends = np.asarray(samples.prompt_lengths), np.asarray(samples.lengths)
    tokens = np.asarray(samples.tokens)

    def words_of(prompt):
        return words(tokens[2 * prompt, : starts[2 * prompt]])

    score = compared.judged(judge.rule("longer", longer), 2, text=words, eos=(-1,))
    found = score({}, samples, {})
    counts = (ends - starts).reshape(3, 2)
    wanted = 1 / (1 + np.exp(counts[:, ::-1] - counts))
    rewards = np.asarray(found.reward).reshape(3, 2)
    np.testing.assert_allclose(rewards[:2], wanted[:2], rtol=1e-6)
    assert set(asked) == {words_of(p) for p in range(3)}
    np.testing.assert_array_equal(found.failed, [False] * 4 + [True] * 2)
    assert found.problems == (compared.UNREAD,)


def test_the_chance_of_two_rewards_is_bradley_terrys_and_a_judges_its_own():
    pair = jnp.array([[2.0, 1.0], [0.0, 0.0]])
    by_reward = compared.chances(nash_md.NashMdConfig(reward="gold"), pair)
    np.testing.assert_allclose(by_reward, [1 / (1 + np.exp(-1)), 0.5], rtol=1e-6)
    own = compared.chances(nash_md.NashMdConfig(reward="judge"), jnp.array([[0.9, 0.1]]))
    np.testing.assert_allclose(own, [0.9])


# --- refused before anything is built -----------------------------------------------------------

KINDS = (online_dpo.OnlineDpoConfig, xpo.XpoConfig, nash_md.NashMdConfig)


def refused(kind, message, **options):
    config = kind(**{"reward": "gold", **options})
    with pytest.raises(ValueError, match=message) as caught:
        config.validate()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_what_every_method_on_compared_samples_refuses(kind, tmp_path):
    kind(reward="gold").validate()
    greedy = transforms.SamplingConfig(temperature=0.0)
    refused(kind, "temperature must be above 0", sampling=greedy)
    refused(kind, "algorithm.patience", patience=0)
    refused(kind, "algorithm.beta|beta must", beta=-1.0)
    refused(kind, "reward must be one of rules, model, gold, judge", reward="golden")
    refused(kind, "rules must name at least one rule", reward="rules")
    refused(kind, "algorithm.judge must be empty unless", judge="judge.json")
    refused(kind, "algorithm.judge must be a file of JSON; got ''", reward="judge")
    missing = str(tmp_path / "none.json")
    refused(kind, "algorithm.judge must be a file of JSON", reward="judge", judge=missing)
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    refused(kind, "algorithm.judge must be a file of JSON", reward="judge", judge=str(broken))
    local = tmp_path / "local.json"
    local.write_text(json.dumps({"kind": "local", "workdir": str(tmp_path)}))
    refused(kind, "must be of kind rule", reward="judge", judge=str(local))
    refused(kind, "unknown|must be one of", compat="trl-9")


def test_one_answer_and_losses_that_need_more_than_pairs_are_refused():
    kind = online_dpo.OnlineDpoConfig
    refused(kind, "group must be at least 2: one answer", group=1)
    refused(kind, "pairs must be one of", pairs="best")
    refused(kind, "must not sort a batch", method="aot")
    refused(kind, "algorithm", method="bco_pair")
    refused(kind, "algorithm", method="tpo")
    cut = transforms.SamplingConfig(top_k=3)
    kind(reward="gold", sampling=cut).validate()  # a pair may be of any law
    for other in (xpo.XpoConfig, nash_md.NashMdConfig):
        refused(other, "must not cut tokens off", sampling=cut)
    refused(nash_md.NashMdConfig, "algorithm.mixture", mixture=1.5)
    refused(xpo.XpoConfig, "optimism", optimism=-1.0)


def test_the_formula_names_what_is_compared():
    sampling = transforms.SamplingConfig(max_new_tokens=tiny.NEW)
    config = online_dpo.OnlineDpoConfig(
        reward="gold", group=4, pairs="all", method="online_ipo", compat="trl-1.16",
        sampling=sampling,
    )  # fmt: skip
    assert "trl-1.16 online_ipo" in config.formula()
    assert "all of 4 samples a prompt, ties out of the mean" in config.formula()
    assert "rival pi^0.75 ref^0.25" in nash_md.NashMdConfig(reward="gold", mixture=0.25).formula()
