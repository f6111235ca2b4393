"""ValueWorld: its optimum against enumeration, groups, languages, and tables that train."""

import itertools

import numpy as np
import pytest
from scipy import special

from alignjax.data import tables
from alignjax.feedback import social_choice
from alignjax.worlds import values

CONFIG = values.ValueConfig(
    seed=1, groups=2, languages=3, words=4, longest=3, documents=400, prompts=30, pairs=4000,
    eval_rows=20,
)  # fmt: skip
WORLD = values.make_world(CONFIG)


def every_response():
    """(responses [n, 3], log-probabilities under the reference [n])."""
    found, logs = [], []
    for length in range(1, CONFIG.longest + 1):
        for words in itertools.product(range(CONFIG.words), repeat=length):
            found.append([*words, *[-1] * (CONFIG.longest - length)])
            log = np.log(WORLD.chances[list(words)]).sum() + (length - 1) * np.log(1 - CONFIG.stop)
            logs.append(log + (np.log(CONFIG.stop) if length < CONFIG.longest else 0.0))
    return np.array(found), np.array(logs)


RESPONSES, LOGS = every_response()


def tabular(rewards, beta):
    """The optimum as a list of chances, by enumeration."""
    total = np.where(RESPONSES >= 0, np.asarray(rewards)[np.maximum(RESPONSES, 0)], 0.0).sum(1)
    return special.softmax(LOGS + total / beta), special.logsumexp(LOGS + total / beta)


def chances_of(policy):
    """The chances of every response under a policy by position."""
    found = []
    for row in RESPONSES:
        words = row[row >= 0]
        chance = np.prod([policy.words[t, w] for t, w in enumerate(words)])
        chance *= np.prod(1 - policy.stop[: len(words) - 1]) * policy.stop[len(words) - 1]
        found.append(chance)
    return np.array(found)


def test_the_reference_is_a_distribution():
    assert np.exp(LOGS).sum() == pytest.approx(1, abs=1e-12)
    reference = values.best_policy(WORLD, np.zeros(4), 1.0)
    np.testing.assert_allclose(chances_of(reference), np.exp(LOGS), atol=1e-12)
    assert values.kl(WORLD, reference) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("group", [0, 1])
def test_the_optimum_is_that_of_enumeration(beta, group):
    own = WORLD.utilities[group]
    policy = values.best_policy(WORLD, own, beta)
    want, log_z = tabular(own, beta)
    np.testing.assert_allclose(chances_of(policy), want, atol=1e-12)
    assert policy.log_z == pytest.approx(log_z, abs=1e-10)
    utilities = values.utility(WORLD, RESPONSES)
    for other in (0, 1):
        got = values.expected(WORLD, policy, WORLD.utilities[other])
        assert got == pytest.approx(want @ utilities[other], abs=1e-10)
    gap = values.kl(WORLD, policy)
    assert gap == pytest.approx(want @ (np.log(want) - LOGS), abs=1e-10)
    # The identity of the optimum: E r - beta KL = beta log Z.
    value = values.expected(WORLD, policy, own) - beta * gap
    assert value == pytest.approx(beta * log_z, abs=1e-10)


@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_the_maximin_policy(beta):
    """Its value is that of the dual, no weights give the worst group more, and groups are even."""
    found = values.maximin_policy(WORLD, beta)
    assert found.value == pytest.approx(beta * found.policy.log_z, abs=1e-5)
    for share in np.linspace(0, 1, 21):
        policy = values.best_policy(WORLD, np.array([share, 1 - share]) @ WORLD.utilities, beta)
        worst = min(values.expected(WORLD, policy, u) for u in WORLD.utilities)
        assert worst - beta * values.kl(WORLD, policy) <= found.value + 1e-7
    if 0.01 < found.weights[0] < 0.99:
        np.testing.assert_allclose(found.utilities[0], found.utilities[1], atol=1e-4)


def test_groups_are_opposed_and_agree_without_taste():
    np.testing.assert_allclose(WORLD.tastes[0], -WORLD.tastes[1], atol=1e-12)
    p = values.win_rates(WORLD, RESPONSES[:8])
    assert p.shape == (2, 8, 8)
    assert social_choice.conflict_share(p) > 0.1
    agreed = values.make_world(values.ValueConfig(seed=1, words=4, taste=0.0))
    np.testing.assert_allclose(agreed.utilities[0], agreed.utilities[1])


def test_the_pooled_optimum_of_two_responses():
    """sigma(h) = sum_g share_g sigma(h_g)."""
    p = values.win_rates(WORLD, RESPONSES[[0, 5]])
    pooled = social_choice.pooled(p, [0.3, 0.7])
    scores = social_choice.bradley_terry(pooled)
    want = 0.3 * p[0, 0, 1] + 0.7 * p[1, 0, 1]
    assert special.expit(scores[0] - scores[1]) == pytest.approx(want, abs=1e-9)


def test_draws_are_those_of_the_reference():
    drawn = values.draw(WORLD, np.random.default_rng(0), 20_000)
    place = {tuple(row): i for i, row in enumerate(RESPONSES)}
    counts = np.bincount([place[tuple(row)] for row in drawn], minlength=len(RESPONSES)) / 20_000
    np.testing.assert_allclose(counts, np.exp(LOGS), atol=4 * 0.5 / 20_000**0.5)


def test_languages_share_no_word_and_mean_the_same():
    rows = values.draw(WORLD, np.random.default_rng(0), 50)
    sets, rewards = [], []
    made = values.make_corpus(CONFIG)
    for language in range(3):
        tokens, lengths = values.tokens_of(CONFIG, np.full(50, language), rows)
        sets.append(set(tokens[:, 1:].ravel()) - {values.PAD, values.EOS})
        rewards.append(made.gold(tokens, lengths))
        np.testing.assert_array_equal(values.words_of(CONFIG, tokens)[:, :3], rows)
        assert tokens.max() < CONFIG.vocab_size
    assert not sets[0] & sets[1]
    assert not sets[1] & sets[2]
    np.testing.assert_allclose(rewards[0], rewards[1])
    np.testing.assert_allclose(rewards[0], WORLD.shares @ values.utility(WORLD, rows))


def test_text_names_languages_and_words():
    tokens, lengths = values.tokens_of(CONFIG, np.array([1]), np.array([[3, 0, -1]]))
    assert values.text(CONFIG, tokens[0]) == "l1 l1.w3 l1.w0 <eos> <pad>"
    assert lengths.tolist() == [4]


@pytest.mark.parametrize("kind", values.KINDS)
@pytest.mark.parametrize("split", ["train", "eval"])
def test_tables_keep_the_contract(kind, split):
    made = values.make_corpus(CONFIG)
    table = made.read(kind, split)
    want = {"documents": 400, "prompts": 30, "pairs": 4000}[kind] if split == "train" else 20
    assert tables.count(table) == want
    again = values.make_corpus(CONFIG).read(kind, split)
    for name, column in table.items():
        np.testing.assert_array_equal(column, again[name])


def test_pairs_are_judged_by_their_groups():
    table = values.make_corpus(CONFIG).read("pairs", "train")
    tokens, group = table["tokens"], table["group"]
    words = [values.words_of(CONFIG, tokens[:, side])[:, :3] for side in (0, 1)]
    won, lost = (values.utility(WORLD, x) for x in words)
    for g in (0, 1):
        own = group == g
        gap = (won - lost)[g, own]
        # Where a rater of this utility chose, E[1 - sigmoid(gap of the chosen)] is known.
        assert np.mean(gap > 0) > 0.6
        other = (won - lost)[1 - g, own]
        assert gap.mean() > other.mean() + 0.1
        chosen = special.expit(np.abs(gap))
        right = (gap > 0)[gap != 0]
        assert right.mean() == pytest.approx(chosen[gap != 0].mean(), abs=0.03)
    assert np.mean(group) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stop": 1.0}, "data.stop must be"),
        ({"words": 1}, "data.words must be"),
        ({"shares": (0.5, 0.6)}, "data.shares must be 2 numbers"),
        ({"groups": 0}, "data.groups must be"),
    ],
)
def test_impossible_worlds_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        values.make_world(values.ValueConfig(**changes))
    with pytest.raises(ValueError, match="beta must be > 0"):
        values.best_policy(WORLD, np.zeros(4), 0.0)
