"""Beams of steps against a Markov chain in closed form; what they sample, keep and refuse."""

import math

import numpy as np
import pytest

from alignjax.search import beam, solutions

EOS, RIGHT, WRONG = 1, 5, 6
STEPS, NEW = 4, 5


def world(q, seed=0):
    """A policy whose steps are one token each, right with probability q, then the end."""

    def step(prompts, lengths, number=0):
        rng = np.random.default_rng([seed, number])
        own = np.where(rng.random(len(lengths)) < q, RIGHT, WRONG)
        done = lengths - 1 >= STEPS  # prompts have one token
        tokens = np.concatenate([prompts, np.zeros((len(prompts), 1), np.int32)], axis=1)
        tokens[np.arange(len(lengths)), lengths] = np.where(done, EOS, own)
        return solutions.Rows(tokens, lengths, lengths + 1, done)

    return step


def oracle(rows):
    """Minus the wrong steps of a row."""
    return -np.sum((rows.tokens == WRONG) & rows.sampled, axis=1).astype(float)


def solved(q, size, branches):
    """The chance that a beam of the best is without an error after all steps: r of the k that are
    kept are right with a probability that is known from step to step."""
    kept = size // branches
    chances = np.zeros(size + 1)
    for r in range(size + 1):
        chances[r] = math.comb(size, r) * q**r * (1 - q) ** (size - r)
    for _ in range(STEPS - 1):
        after = np.zeros(size + 1)
        for r, chance in enumerate(chances):
            trials = min(r, kept) * branches
            for k in range(trials + 1):
                after[k] += chance * math.comb(trials, k) * q**k * (1 - q) ** (trials - k)
        chances = after
    return 1 - chances[0]


PROMPTS = 1500


def found(q, size, branches, score=oracle, prompts=PROMPTS):
    asked = np.full((prompts, 1), 9, np.int32)
    lengths = np.ones(prompts, np.int32)
    return beam.search(
        world(q), score, asked, lengths, size=size, branches=branches, new=NEW
    )  # fmt: skip


@pytest.mark.parametrize(("size", "branches"), [(1, 4), (4, 4), (8, 4), (8, 2), (8, 1)])
def test_an_oracles_beams_are_a_markov_chain(size, branches):
    own = found(0.5, size, branches)
    best = own.scores[own.best(size)]
    rate, closed = np.mean(best == 0), solved(0.5, size, min(branches, size))
    assert abs(rate - closed) < 4 * math.sqrt(closed * (1 - closed) / PROMPTS)
    assert own.rows.ended.all()
    assert (own.rows.lengths == 1 + STEPS + 1).all()
    assert (own.tokens == size * (STEPS + 1)).all()


def test_scores_are_those_of_the_rows_and_choose():
    """A scorer that likes errors finds them: what is chosen is chosen by the score alone."""
    own = found(0.5, 8, 4, score=lambda rows: -oracle(rows), prompts=400)
    assert np.array_equal(own.scores, -oracle(own.rows))
    assert np.mean(own.scores[own.best(8)] == STEPS) > 0.9


def test_an_answer_that_has_ended_stays_as_it_is():
    """A policy that ends at once where its first step is right: those rows change no more."""

    def step(prompts, lengths, number=0):
        first = prompts[np.arange(len(lengths)), lengths - 1]
        rng = np.random.default_rng([3, number])
        own = np.where(rng.random(len(lengths)) < 0.5, RIGHT, WRONG)
        done = first == RIGHT
        tokens = np.concatenate([prompts, np.zeros((len(prompts), 1), np.int32)], axis=1)
        tokens[np.arange(len(lengths)), lengths] = np.where(done, EOS, own)
        return solutions.Rows(tokens, lengths, lengths + 1, done)

    asked, lengths = np.full((50, 1), 9, np.int32), np.ones(50, np.int32)
    own = beam.search(step, oracle, asked, lengths, size=4, branches=2, new=6)
    for row in range(len(own.scores)):
        ids = own.rows.completion(row).tolist()
        assert ids[:-1] == [WRONG] * (len(ids) - 1)
        assert own.rows.ended[row] == (ids[-1] == RIGHT)
    cut = own.rows.lengths - 1 == 6
    assert (own.rows.ended | cut).all()


def test_a_size_that_is_no_multiple_is_refused():
    with pytest.raises(ValueError, match="n of a beam must be a multiple of its branches"):
        beam.check(6, 4)
    with pytest.raises(ValueError, match="--branches must be finite and >= 1"):
        beam.check(4, 0)
