"""Negatively correlated answers: each way to them, and the exact truths of what they are worth."""

import itertools

import numpy as np
import pytest

from alignjax.evals import pluralism
from alignjax.sampling import diverse
from alignjax.text import chat

ASK = (chat.Turn(chat.HUMAN, "How shall I live?"),)
OLD, NEW = "keep what is old", "seek something new"


def contrary(prompts, number):
    """A planted policy: the value that the answers before it have less of."""
    texts = [turns[-1].text for turns in prompts]
    return [OLD if text.count(NEW) >= text.count(OLD) else NEW for text in texts]


def independent(rate, count, draws, seed=0):
    return (np.random.default_rng(seed).random((count, draws)) < rate).astype(int)


def test_sequential_answers_stand_in_the_prompt_of_the_next():
    seen = []

    def ask(prompts, number):
        seen.append([turns[-1].text for turns in prompts])
        return [f"answer {number} to {i}" for i in range(len(prompts))]

    prompts = [(chat.Turn(chat.SYSTEM, "s"), chat.Turn(chat.HUMAN, "{answers}")), ASK]
    found, left_out = diverse.sequential(ask, prompts, 3, template="{prompt} | {answers} | else")
    assert found == [[f"answer {n} to {i}" for n in range(3)] for i in (0, 1)]
    assert left_out == 0
    assert seen[0] == ["{answers}", ASK[0].text]  # the first as it is; braces of it are text
    assert seen[2][0] == "{answers} | 1. answer 0 to 0\n2. answer 1 to 0 | else"
    for wrong in ("", "{prompt}", "{answers}"):
        with pytest.raises(ValueError, match="a template must have the places"):
            diverse.sequential(ask, prompts, 2, template=wrong)


def test_earlier_answers_without_room_are_left_out_oldest_first_and_counted():
    seen = []

    def ask(prompts, number):
        seen.append(prompts[0][-1].text)
        return [f"<{number}>"]

    def fits(turns):
        return turns[-1].text.count("<") <= 1

    found, left_out = diverse.sequential(ask, [ASK], 4, template="{prompt}{answers}", fits=fits)
    assert found == [["<0>", "<1>", "<2>", "<3>"]]
    assert [text.replace(ASK[0].text, "") for text in seen] == ["", "1. <0>", "1. <1>", "1. <2>"]
    assert left_out == 1 + 2
    _, left_out = diverse.sequential(ask, [ASK], 3, fits=lambda turns: turns == ASK)
    assert left_out == 1 + 2


@pytest.mark.parametrize(("count", "ratio"), [(2, 2), (4, 4 / 3)])
def test_sequential_answers_of_a_contrary_policy_reach_the_bound_exactly(count, ratio):
    """Half of each value, as of independent draws at rate 1/2: K / (K - 1), and both are shown."""
    found, _ = diverse.sequential(contrary, [ASK] * 3, count)
    kinds = np.array([[text == NEW for text in own] for own in found])
    assert (kinds.sum(axis=1) == count // 2).all()
    assert diverse.coverage(kinds).all()
    expected = 2 * 0.25  # E (x - x')^2 of independent draws at rate 1/2
    assert diverse.pair_distances(kinds).mean() / expected == pytest.approx(ratio, abs=1e-12)
    assert pluralism.most_pair_variance(count) == pytest.approx(ratio)
    sets = list(itertools.product((OLD, NEW), repeat=count))  # all independent draws, once each
    base = diverse.text_distances(sets)
    own = diverse.text_distances([found[0]] * len(sets))
    assert diverse.diversity(own, base).ratio == pytest.approx(ratio, abs=1e-12)


@pytest.mark.parametrize(("rate", "shown"), [(0.02, 0.078), (0.05, 0.185), (0.1, 0.344)])
def test_independent_draws_seldom_show_both_sides(rate, shown):
    kinds = independent(rate, 40_000, 4)
    want = pluralism.coverage(rate)
    assert want == pytest.approx(shown, abs=5e-4)
    assert diverse.coverage(kinds).mean() == pytest.approx(want, abs=3 * (want / 40_000) ** 0.5)
    found = diverse.pair_distances(kinds)
    error = found.std() / 200
    assert found.mean() == pytest.approx(2 * rate * (1 - rate), abs=3 * error)


def test_exchangeable_draws_of_least_correlation_reach_the_bound():
    rng = np.random.default_rng(0)
    free = rng.normal(size=(20_000, 4))
    apart = (free - free.mean(axis=1, keepdims=True)) / (1 - 1 / 4) ** 0.5  # rho = -1/3
    found = diverse.diversity(diverse.pair_distances(apart), diverse.pair_distances(free))
    assert found.ratio == pytest.approx(pluralism.pair_variance_ratio(-1 / 3), abs=3 * found.error)
    assert found.error < 0.01
    other = rng.normal(size=(20_000, 4))
    same = diverse.diversity(diverse.pair_distances(other), diverse.pair_distances(free))
    assert same.ratio == pytest.approx(1, abs=3 * same.error)


def test_strata_are_as_even_as_the_candidates_allow():
    strata = np.array([[0, 0, 0, 1, 0, 1], [0, 0, 0, 0, 0, 1], [2, 0, 0, 1, 0, 0], [0] * 6])
    kept = diverse.stratified(strata, 4)
    assert kept.tolist() == [[0, 1, 3, 5], [0, 1, 2, 5], [0, 1, 2, 3], [0, 1, 2, 3]]
    with pytest.raises(ValueError, match="candidates must be at least the 7 to keep; got 6"):
        diverse.stratified(strata, 7)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_strata_show_both_sides_whenever_the_candidates_do(rate):
    """Of M candidates: 1 - q^M - (1 - q)^M, by all 2^M of them; at 1/2 it moves no marginal."""
    pools = np.array(list(itertools.product((0, 1), repeat=8)))
    chance = np.prod(np.where(pools == 1, rate, 1 - rate), axis=1)
    kept = np.take_along_axis(pools, diverse.stratified(pools, 4), axis=1)
    shown = chance @ diverse.coverage(kept)
    assert shown == pytest.approx(pluralism.coverage(rate, 8), abs=1e-12)
    assert shown > pluralism.coverage(rate, 4)
    ratio = chance @ diverse.pair_distances(kept) / (2 * rate * (1 - rate))
    if rate == 0.5:
        assert chance @ kept.mean(axis=1) == pytest.approx(0.5, abs=1e-12)
        assert 1 < ratio <= pluralism.most_pair_variance(4)
    else:  # beyond the bound of unchanged marginals: the minority is given more often
        assert chance @ kept.mean(axis=1) > rate
        assert ratio > pluralism.most_pair_variance(4)


def test_one_prompt_asks_for_all_and_its_answer_is_split():
    asked = diverse.joint(ASK, 4, "<|next|>")
    assert asked[-1].text.startswith(ASK[0].text)
    assert "Write 4 answers" in asked[-1].text
    assert "<|next|>" in asked[-1].text
    assert diverse.split([5, 6, 9, 7, 9, 9, 8], 9, 4) == [[5, 6], [7], [8]]
    assert diverse.split(np.array([9, 5, 9, 6, 9, 7]), 9, 2) == [[5], [6]]
    assert diverse.split([], 9, 2) == []
    with pytest.raises(ValueError, match=r"Add \{count\}"):
        diverse.joint(ASK, 2, "x", template="{prompt} {separator}")


def test_similarity_of_texts():
    distances = diverse.text_distances(
        [["A b", "b a"], ["a b", "c d"], ["a b", "a c"], ["", ""], ["", "a"]]
    )
    np.testing.assert_allclose(distances, [0, 1, 0.5, 0, 1], atol=1e-12)
    three = diverse.text_distances([["a", "a", "नई बात"]])
    assert three[0] == pytest.approx(2 / 3)
    alone = diverse.diversity(three)
    assert (alone.similarity, str(alone)) == (pytest.approx(1 / 3), "mean pair similarity 0.333")
    assert np.isnan(diverse.diversity(np.zeros(2), np.zeros(2)).ratio)
    both = diverse.diversity(np.array([0.5, 0.7]), np.array([0.25, 0.35]))
    assert str(both).endswith("NC ratio 2.000 +- 0.000, 1 for independent answers")
    assert str(diverse.diversity(np.ones(1), np.ones(1))).count("NC ratio 1.000, 1 for") == 1
    assert np.isnan(diverse.text_distances([["a"]])).all()
    with pytest.raises(ValueError, match="must be to the same prompts; got 1 prompts for 2"):
        diverse.diversity(np.zeros(2), np.zeros(1))


def test_pairs_that_always_show_both_sides_teach_a_rare_taste():
    """Accuracy .8, 200 comparisons: independent pairs at q = .02 and at .002, and contrary ones."""
    rng, runs, count, accuracy = np.random.default_rng(3), 400, 200, 0.8
    (pair,), _ = diverse.sequential(contrary, [ASK], 2)
    assert set(pair) == {OLD, NEW}
    for rate, negative in ((0.02, False), (0.002, False), (0.02, True)):
        kinds = (rng.random((runs, count, 2)) < rate).astype(int)
        if negative:
            kinds = np.broadcast_to([text == NEW for text in pair], kinds.shape).astype(int)
        informs = kinds[..., 0] != kinds[..., 1]
        right = rng.random((runs, count)) < accuracy
        score = np.where(informs, np.where(right, 1, -1), 0).sum(axis=1)
        learned = (score > 0).mean() + (score == 0).mean() / 2
        sign = 1.0 if negative else pluralism.sign_learned(count, rate, accuracy)
        assert learned == pytest.approx(sign, abs=3 * (0.25 / runs) ** 0.5)
        if negative:
            assert learned == 1
            assert pluralism.win_rate(learned, rate, accuracy) == pytest.approx(0.794, abs=1e-12)
