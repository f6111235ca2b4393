"""The generator, its likelihoods and the gold reward of ReviewWorld."""

import time

import numpy as np
import pytest

from alignjax.worlds import gold, review
from tests.reference import review as reference

WORLD = review.make_review_world(review.ReviewWorldConfig(seed=3))


def documents(n, seed=0, world=WORLD):
    return review.sample_documents(world, np.random.default_rng(seed), n)


def rows(*texts):
    """Documents spelled as token ids, padded."""
    tokens = np.zeros((len(texts), WORLD.length), np.int32)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = text
    return tokens, np.array([len(text) for text in texts], np.int32)


def test_vocabulary_has_the_stated_kinds():
    counts = [len(ids) for ids in WORLD.kinds.values()]
    assert counts == [1, 1, 1, 4, 2, 8, 2, 1, 3, 6, 6, 2, 2, 1, 8]
    assert sum(counts) == WORLD.vocab_size == len(set(WORLD.words)) == 48
    assert (WORLD.length, WORLD.prompt_length) == (24, 6)
    assert (WORLD.pad, WORLD.bos, WORLD.eos) == (0, 1, 2)
    assert WORLD.kinds["noise"].tolist() == list(reference.NOISE)
    assert WORLD.kinds["dot"].tolist() == [reference.DOT]


@pytest.mark.parametrize("seed", [0, 1, 2, 7])
def test_every_world_is_equally_rich(seed):
    world = review.make_review_world(review.ReviewWorldConfig(seed=seed))
    pos, neg = world.kinds["pos"], world.kinds["neg"]
    levels = [0.5, 0.7, 0.9, 1.1, 1.3, 1.5]
    np.testing.assert_allclose(np.sort(world.valence[pos]), levels)
    np.testing.assert_allclose(np.sort(-world.valence[neg]), levels)
    for ids in (pos, neg):
        assert set(np.unique(world.affinity[:, ids])) == {0.3, 1.0}
        np.testing.assert_array_equal((world.affinity[:, ids] == 1).sum(1), 3)
        assert len(np.unique(world.affinity[:, ids], axis=0)) == 4
    total = world.transition.sum(-1)
    ends = np.isin(np.arange(48), [0, 2, *world.kinds["noise"]])
    np.testing.assert_allclose(total, np.where(ends, 0.0, 1.0) * np.ones_like(total), atol=1e-12)
    legal = [[reference.is_legal(a, b) for b in range(48)] for a in range(48)]
    np.testing.assert_array_equal(world.legal, legal)
    np.testing.assert_array_equal((world.transition > 0).all((0, 1)), legal)


def test_seed_fixes_the_world():
    again = review.make_review_world(review.ReviewWorldConfig(seed=3))
    other = review.make_review_world(review.ReviewWorldConfig(seed=4))
    np.testing.assert_array_equal(WORLD.transition, again.transition)
    assert (WORLD.words, WORLD.valence.tolist()) == (again.words, again.valence.tolist())
    assert not np.allclose(WORLD.transition, other.transition)


@pytest.mark.parametrize("seed", [-1, 1.5, True])
def test_bad_seed_is_refused(seed):
    with pytest.raises(ValueError, match="seed must be"):
        review.make_review_world(review.ReviewWorldConfig(seed=seed))


@pytest.mark.parametrize("seed", range(5))
def test_difficulty_is_alike_across_seeds(seed):
    world = review.make_review_world(review.ReviewWorldConfig(seed=seed))
    tokens, lengths = documents(40_000, seed=11, world=world)
    reward = gold.gold_reward(world, tokens, lengths)
    assert 2.0 < reward.std() < 2.7
    assert -0.35 < reward.mean() < 0.05
    assert abs(np.corrcoef(lengths, reward)[0, 1]) < 0.15
    assert 7.5 < lengths.mean() - 6 < 8.7
    wows = np.isin(tokens, world.kinds["wow"]).sum(1)
    assert 0.001 < (wows > 2).mean() < 0.02
    adverb = np.isin(tokens, world.kinds["adv"])
    assert 0.005 < (adverb[:, 1:] & adverb[:, :-1]).any(1).mean() < 0.06
    cut = tokens[np.arange(len(tokens)), lengths - 1] != world.eos
    assert 0.05 < cut.mean() < 0.2
    assert (lengths[cut] == world.length).all()


def test_documents_follow_the_tables():
    begin = time.process_time()
    tokens, lengths = documents(100_000)
    assert time.process_time() - begin < 4.0
    assert tokens.dtype == lengths.dtype == np.int32
    after = np.arange(24) >= lengths[:, None]
    assert (tokens[after] == 0).all()
    assert (tokens[~after] != 0).all()
    assert review.illegal_rate(WORLD, tokens, lengths, 1) == 0.0
    # The sixth token among documents that share five, to 5 standard errors.
    prefix = np.array(documents(1, seed=5)[0][0, :5])
    rest = tokens[(tokens[:, :5] == prefix).all(1), 5]
    expected = np.array([reference.probability(WORLD, [*prefix.tolist(), k]) for k in range(48)])
    p = expected / expected.sum()
    share = np.bincount(rest, minlength=48) / len(rest)
    assert (np.abs(share - p) <= 5 * np.sqrt(p * (1 - p) / len(rest))).all()
    positive = np.isin(tokens, WORLD.kinds["pos"]).sum(1)
    adjectives = positive + np.isin(tokens, WORLD.kinds["neg"]).sum(1)
    several = adjectives >= 3
    assert np.var(positive[several] / adjectives[several]) > 0.05  # a latent sentiment, not a coin


def test_gold_by_hand():
    topic, det, noun, cop = 3, 7, 9, 17
    good, bad = int(WORLD.kinds["pos"][0]), int(WORLD.kinds["neg"][1])
    up = 2 * WORLD.valence[good] * WORLD.affinity[0, good]
    down = 2 * WORLD.valence[bad] * WORLD.affinity[0, bad]
    start = [1, topic, det, noun, cop]
    wow, conj, dot, eos, very, nots, noise = 37, 35, 39, 2, 20, 19, 45
    cases = [
        ([good, dot, eos], up),
        ([good, dot], up - 1),  # no EOS
        ([good, eos], up - 1),  # EOS after an adjective
        ([very, good, dot, eos], 1.75 * up),
        ([very, very, good, dot, eos], 1.75 * up - 0.6),
        ([nots, good, dot, eos], -0.75 * up),
        ([nots, very, bad, dot, eos], -0.4 * down),
        ([good, conj, nots, bad, conj, good, dot, eos], up - 0.75 * down + 0.6 * up),
        ([good, wow, dot, eos], up + 0.6),
        ([good, wow, wow, wow, wow, dot, eos], up + 0.6 - 2.8),
        ([nots, noise, good, dot, eos], up - 2),  # noise clears the modifier
    ]
    tokens, lengths = rows(*(start + body for body, _ in cases))
    expected = [value for _, value in cases]
    np.testing.assert_allclose(gold.gold_reward(WORLD, tokens, lengths), expected, atol=1e-12)


def test_gold_matches_the_slow_reference():
    rng = np.random.default_rng(1)
    tokens, lengths = documents(200)
    noisy = review.corrupt(WORLD, rng, tokens, lengths, 1.0, 0.4)
    wild = rng.integers(0, 48, (200, 24))  # any string at all, and adjective-heavy ones
    heavy = rng.choice([19, 20, 21, 23, 25, 29, 33, 35, 37, 38, 39], (200, 24))
    everything = np.concatenate([tokens, noisy, wild, heavy])
    everything[:, 0], everything[:, 1] = 1, rng.integers(3, 7, 800)
    counts = np.concatenate([lengths, lengths, rng.integers(2, 25, 400)])
    slow = [
        reference.gold(WORLD, row[:n].tolist()) for row, n in zip(everything, counts, strict=True)
    ]
    fast = gold.gold_reward(WORLD, everything, counts)
    assert fast.dtype == np.float64
    np.testing.assert_allclose(fast, slow, atol=1e-12)


def test_gold_refuses_what_is_no_document():
    tokens, lengths = documents(4)
    with pytest.raises(ValueError, match="must begin with BOS"):
        gold.gold_reward(WORLD, tokens[:, 1:], lengths - 1)
    with pytest.raises(ValueError, match="lengths must lie"):
        gold.gold_reward(WORLD, tokens, lengths * 0)
    with pytest.raises(ValueError, match=r"\[n, T\] and \[n\]"):
        gold.gold_reward(WORLD, tokens, lengths[:2])


def test_corrupt_hits_the_stated_shares():
    tokens, lengths = documents(20_000)
    noisy = review.corrupt(WORLD, np.random.default_rng(0), tokens, lengths)
    changed = noisy != tokens
    assert np.isin(noisy[changed], WORLD.kinds["noise"]).all()
    assert not changed[:, :2].any()
    assert not changed[(tokens == WORLD.eos) | (tokens == WORLD.pad)].any()
    hit = changed.any(1)
    # A document of 15 tokens escapes with probability .7^12, hence a little below .2.
    assert 0.185 < hit.mean() < 0.2
    eligible = ((np.arange(24) >= 2) & (np.arange(24) < lengths[:, None])) & (tokens != WORLD.eos)
    assert abs(changed.sum() / eligible.sum() - 0.06) < 0.004
    assert review.illegal_rate(WORLD, noisy, lengths, 6) > 0.02
    with pytest.raises(ValueError, match="token_rate must lie"):
        review.corrupt(WORLD, np.random.default_rng(0), tokens, lengths, token_rate=1.5)


def test_logprobs_match_a_sum_by_hand():
    tokens, lengths = documents(60, seed=8)
    for start in (0, 1, 6, 9):
        slow = []
        for row, n in zip(tokens.tolist(), lengths, strict=True):
            whole = reference.probability(WORLD, row[:n])
            before = reference.probability(WORLD, row[: min(start, n)]) if start else 1.0
            slow.append(np.log(whole / before))
        fast = review.document_logprobs(WORLD, tokens, lengths, start=start)
        np.testing.assert_allclose(fast, slow, atol=1e-10)


@pytest.mark.parametrize(("document_rate", "token_rate"), [(0.0, 0.0), (0.2, 0.3), (1.0, 0.5)])
@pytest.mark.parametrize("cut", [2, 6, 11])
def test_next_token_probabilities_sum_to_one(document_rate, token_rate, cut):
    tokens, lengths = documents(40, seed=2)
    tokens = tokens[lengths > cut + 1][:8]
    noisy = review.corrupt(
        WORLD, np.random.default_rng(0), tokens, np.full(len(tokens), cut), document_rate, 0.5
    )
    every = np.repeat(noisy, 48, 0)
    every[:, cut] = np.tile(np.arange(48), len(noisy))
    rates = {"document_rate": document_rate, "token_rate": token_rate}
    logp = review.document_logprobs(WORLD, every, np.full(len(every), cut + 1), start=cut, **rates)
    np.testing.assert_allclose(np.exp(logp).reshape(-1, 48).sum(1), 1.0, atol=1e-12)


def test_corrupted_logprobs_match_all_clean_paths():
    det, noun, cop, zq, vk = 8, 12, 18, 40, 42
    tokens, lengths = rows(
        [1, 4, det, noun, cop, 25, 39, 2],
        [1, 4, det, zq, cop, 25],
        [1, 5, zq, noun, cop, 19, 30, 39, 2],
        [1, 6, det, noun, cop, zq, vk, 39],
        [1, 3, det, noun, vk, zq, 39],
        [1, 3, 7, 9, 17, zq, 39, 2],
        [1, 3, 7, 9, 17, 39],
        [1, zq, 7, 9],
    )
    for rates in [(0.2, 0.3), (0.7, 0.1), (1.0, 0.3)]:
        slow = np.array(
            [
                reference.corrupted_probability(WORLD, row[:n], *rates)
                for row, n in zip(tokens.tolist(), lengths, strict=True)
            ]
        )
        names = {"document_rate": rates[0], "token_rate": rates[1]}
        joint = review.document_logprobs(WORLD, tokens, lengths, start=0, **names)
        np.testing.assert_allclose(np.exp(joint), slow, rtol=1e-10, atol=1e-300)
        before = review.document_logprobs(WORLD, tokens, np.full(8, 4), start=0, **names)
        after = review.document_logprobs(WORLD, tokens, lengths, start=4, **names)
        possible = slow > 0
        np.testing.assert_allclose((before + after)[possible], joint[possible], atol=1e-10)
        assert (after[~possible & (lengths > 4)] == -np.inf).all()


def test_impossible_documents_have_no_probability():
    tokens, lengths = rows([1, 3, 7, 9, 17, 23, 2], [3, 1, 7, 9], [1, 3, 7, 9, 40, 23])
    assert (review.document_logprobs(WORLD, tokens, lengths, start=0) == -np.inf).all()
    assert review.illegal_rate(WORLD, tokens[:1], lengths[:1], 6) == 1.0
    assert review.illegal_rate(WORLD, tokens[:1], lengths[:1], 1) == pytest.approx(1 / 6)


def test_padding_is_not_read():
    tokens, lengths = documents(50)
    other = np.where(np.arange(24) < lengths[:, None], tokens, 30)
    for rate in (0.0, 0.3):
        score = [
            review.document_logprobs(WORLD, x, lengths, start=6, document_rate=rate, token_rate=0.2)
            for x in (tokens, other)
        ]
        np.testing.assert_array_equal(*score)
    np.testing.assert_array_equal(
        gold.gold_reward(WORLD, tokens, lengths), gold.gold_reward(WORLD, other, lengths)
    )


def test_words_are_readable():
    tokens, _ = rows([1, 3, 7, 9, 18, 19, 20, 25, 39, 2])
    assert review.words(WORLD, tokens[0]).startswith("<bos> film: the story was not very ")
    assert "<pad>" not in review.words(WORLD, tokens[0])
