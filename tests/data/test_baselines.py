import random

import numpy as np
import pytest

from alignjax.data import baselines


def test_longer_answer_with_ties_by_hand(pair):
    rows = [pair("q", "long", "a"), pair("q", "b", "long"), pair("q", "xy", "zt")]
    rows.append(pair("q", "longer", "c"))
    result = baselines.longer_answer_accuracy(rows)
    assert result == (2.5 / 4, pytest.approx(np.std([1, 0, 0.5, 1]) / 2), 4)


def made_rows(pair, count, seed):
    """Returns pairs in which the word "kind" wins in 9 of 10, among random other words."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        words = [" ".join(rng.choice("abcdefgh") for _ in range(6)) for _ in range(2)]
        good, bad = words[0] + " kind", words[1]
        rows.append(pair("q", good, bad) if rng.random() < 0.9 else pair("q", bad, good))
    return rows


def test_bag_of_words_finds_the_word_that_decides(pair):
    train, held = made_rows(pair, 300, 0), made_rows(pair, 200, 1)
    result = baselines.bag_of_words_accuracy(train, held)
    truth = np.mean(["kind" in row.chosen[0].text for row in held])
    assert result.accuracy == pytest.approx(truth, abs=0.03)
    assert result.n == 200
    assert result.standard_error == pytest.approx(np.sqrt(truth * (1 - truth) / 200), rel=0.1)


def test_bag_of_words_ignores_words_it_never_saw_and_is_antisymmetric(pair):
    train = made_rows(pair, 100, 0)
    unseen = [pair("q", "unseen", "unknown")]
    assert baselines.bag_of_words_accuracy(train, unseen).accuracy == 0.5
    held = made_rows(pair, 51, 2)
    swapped = [pair("q", row.rejected[0].text, row.chosen[0].text) for row in held]
    a = baselines.bag_of_words_accuracy(train, held).accuracy
    b = baselines.bag_of_words_accuracy(train, swapped).accuracy
    assert a + b == pytest.approx(1)
    assert a > 0.5


def test_the_prompt_is_never_read(pair):
    train = [pair("kind", "a", "b")] * 5
    held = [pair("kind", "a", "b")]
    other = [pair("else", "a", "b")]
    assert baselines.bag_of_words_accuracy(train, held) == baselines.bag_of_words_accuracy(
        train, other
    )


def test_bad_arguments_are_refused(pair):
    with pytest.raises(ValueError, match="eval rows"):
        baselines.longer_answer_accuracy([])
    with pytest.raises(ValueError, match="l2 must be positive"):
        baselines.bag_of_words_accuracy([], [], l2=0)


def test_fit_solves_its_equation_by_hand():
    """All pairs +1 in one word: w solves sigmoid(-w) = l2 w; the second word never occurs."""
    weights = baselines._fit(np.array([[1.0, 0.0]] * 4), 0.25)
    assert 1 / (1 + np.exp(weights[0])) == pytest.approx(0.25 * weights[0], abs=1e-4)
    assert weights[0] == pytest.approx(1.0426, abs=1e-3)
    assert weights[1] == 0
