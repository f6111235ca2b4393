"""Likelihood, pair scores and policy samples of a tiny model, against NumPy and enumeration."""

import itertools

import jax
import numpy as np
import pytest

from alignjax.core import struct
from alignjax.evals import likelihood, policy, preferences
from alignjax.rewards import learned
from alignjax.sampling import transforms
from tests.models import tiny
from tests.reference import transformer as reference

VOCAB, EOS = 5, 4
MODEL = tiny.model(vocab_size=VOCAB)
CONFIG = tiny.config(vocab_size=VOCAB)
POLICY, OTHER = (tiny.params(vocab_size=VOCAB, seed=s) for s in (0, 1))
HEAD = np.random.default_rng(3).normal(size=16).astype(np.float32)
REWARD = struct.replace(OTHER, scalar=HEAD)


def documents(lengths, length=6):
    sequences = tiny.sequences(lengths, vocab=VOCAB)
    tokens, positions, segments = tiny.rows(sequences, length)
    loss_mask = (segments > 0) & (np.arange(length) >= 2)
    fields = {"tokens": tokens, "positions": positions, "segments": segments}
    return sequences, {**fields, "loss_mask": loss_mask}


def test_likelihood_counts_every_row_once():
    lengths = [6, 3, 5, 4, 6, 2, 3]  # the last batch of 4 has 3 real rows
    sequences, table = documents(lengths)
    nll, tokens = likelihood.row_nll(MODEL, POLICY, table, rows=4)
    np.testing.assert_array_equal(tokens, [max(n - 2, 0) for n in lengths])
    want = [-reference.token_logprobs(POLICY, s, CONFIG)[1:].sum() for s in sequences]
    np.testing.assert_allclose(nll, want, atol=1e-5)
    got = likelihood.token_nll(MODEL, POLICY, table, rows=4)
    assert got.value == pytest.approx(sum(want) / tokens.sum(), abs=1e-5)
    assert got.n == 7


def test_answer_scores():
    sequences, rows = documents([6, 3, 5, 4, 6, 4])
    table = {name: x.reshape(2, 3, *x.shape[1:]) for name, x in rows.items()}
    score = preferences.reward_scores(MODEL)
    got = preferences.answer_scores(score, REWARD, table, rows=4)
    assert got.shape == (2, 3)
    want = [reference.hidden(REWARD, s, CONFIG)[-1] @ HEAD for s in sequences]
    np.testing.assert_allclose(got.ravel(), want, atol=1e-4)
    implicit = preferences.answer_scores(
        preferences.implicit_scores(MODEL), (POLICY, OTHER), table, rows=4
    )
    want = [
        np.subtract(*(reference.token_logprobs(w, s, CONFIG)[1:] for w in (POLICY, OTHER))).sum()
        for s in sequences
    ]
    np.testing.assert_allclose(implicit.ravel(), want, atol=1e-4)


DRAWS, PROMPT, NEW, TEMPERATURE = 3000, [1, 2], 3, 1.4


@pytest.fixture(scope="module")
def sampler():
    config = transforms.SamplingConfig(max_new_tokens=NEW, temperature=TEMPERATURE)
    return policy.make_sampler(MODEL, config, eos=EOS, pad=0, rows=1024)


@pytest.fixture(scope="module")
def prompts():
    # The last batch of 1024 is not full.
    return {
        "prompts": np.tile(np.array([PROMPT], np.int32), (DRAWS, 1)),
        "lengths": np.full(DRAWS, 2, np.int32),
    }


@pytest.fixture(scope="module")
def drawn(sampler, prompts):
    return sampler(POLICY, OTHER, prompts, 0, reward=REWARD)


def log_distribution(weights, prefix):
    z = reference.logits(weights, prefix, CONFIG)[-1] / TEMPERATURE
    return np.log(reference.distribution(z))


def completions():
    """Every completion: up to NEW tokens, nothing after EOS."""
    for tokens in itertools.product(range(VOCAB), repeat=NEW):
        end = tokens.index(EOS) + 1 if EOS in tokens else NEW
        if all(t == 0 for t in tokens[end:]):
            yield tokens[:end]


@pytest.fixture(scope="module")
def enumerated():
    """{completion: (log policy, log reference, summed KL of the next-token laws, entropy)}."""
    known = {}
    for prefix in {c[:t] for c in completions() for t in range(len(c))}:
        known[prefix] = [log_distribution(w, [*PROMPT, *prefix]) for w in (POLICY, OTHER)]
    result = {}
    for tokens in completions():
        rows = [(*known[tokens[:t]], tokens[t]) for t in range(len(tokens))]
        result[tokens] = (
            sum(p[t] for p, _, t in rows),
            sum(q[t] for _, q, t in rows),
            sum(np.sum(np.exp(p) * (p - q)) for p, q, _ in rows),
            -sum(np.sum(np.exp(p) * p) for p, _, _ in rows),
        )
    return result


def test_kl_of_samples_equals_enumeration(drawn, enumerated):
    logp, logq, kl, _ = map(np.array, zip(*enumerated.values(), strict=True))
    assert np.exp(logp).sum() == pytest.approx(1)
    exact = np.sum(np.exp(logp) * (logp - logq))
    assert np.sum(np.exp(logp) * kl) == pytest.approx(exact)  # the chain rule
    rows = [
        tuple(int(t) for t in row[2:n]) for row, n in zip(drawn.tokens, drawn.lengths, strict=True)
    ]
    assert len(rows) == DRAWS
    for i in range(0, DRAWS, 7):
        np.testing.assert_allclose(drawn.kl[i], enumerated[rows[i]][2], atol=1e-4)
        np.testing.assert_allclose(drawn.entropy[i], enumerated[rows[i]][3], atol=1e-4)
    error = drawn.kl.std() / np.sqrt(DRAWS)
    assert abs(drawn.kl.mean() - exact) < 4 * error < 0.3 * exact
    error = drawn.entropy.std() / np.sqrt(DRAWS)
    assert abs(drawn.entropy.mean() + np.sum(np.exp(logp) * logp)) < 4 * error
    np.testing.assert_array_equal(drawn.completion_lengths, [len(r) for r in rows])
    np.testing.assert_array_equal(drawn.ended, [r[-1] == EOS for r in rows])


def test_scores_are_the_reward_at_the_last_token(drawn):
    for i in range(5):
        row = drawn.tokens[i, : drawn.lengths[i]]
        want = reference.hidden(REWARD, row, CONFIG)[-1] @ HEAD
        np.testing.assert_allclose(drawn.score[i], want, atol=1e-4)


def test_a_policy_that_is_its_reference_has_no_kl_and_seeds_differ(sampler, prompts, drawn):
    same = sampler(POLICY, POLICY, prompts, 0)
    np.testing.assert_array_equal(same.kl, 0)
    np.testing.assert_array_equal(same.tokens, drawn.tokens)
    assert np.isnan(same.score).all()  # no reward model was given
    other = sampler(POLICY, POLICY, prompts, 1)
    assert (other.tokens != drawn.tokens).any(axis=1).mean() > 0.3
    # Batches of one call have keys of their own.
    assert (drawn.tokens[:1024] != drawn.tokens[1024:2048]).any()


def test_drift_of_every_batch_is_checked(sampler, prompts, monkeypatch):
    seen = []
    monkeypatch.setattr(policy.generate, "check_drift", lambda *x: seen.append(x))
    sampler(POLICY, OTHER, prompts, 0)
    assert [limit for _, limit in seen] == [1e-3] * 3
    assert all(0 < float(drift) < 2e-5 for drift, _ in seen)


def test_learned_reward_is_blind_to_what_follows_a_row():
    sequences, table = documents([5, 3])
    samples = jax.tree.map(
        np.asarray,
        learned.generate.Samples(
            tokens=table["tokens"],
            mask=table["loss_mask"],
            logprobs=np.zeros((2, 6), np.float32),
            lengths=np.array([5, 3], np.int32),
            prompt_lengths=np.array([2, 2], np.int32),
            ended=np.ones(2, bool),
        ),
    )
    score = learned.learned(MODEL, "proxy")
    got = score({"proxy": REWARD}, samples, {})
    want = [reference.hidden(REWARD, s, CONFIG)[-1] @ HEAD for s in sequences]
    np.testing.assert_allclose(got, want, atol=1e-4)
    dirty = np.where(np.arange(6) < samples.lengths[:, None], samples.tokens, 3)
    again = score({"proxy": REWARD}, struct.replace(samples, tokens=dirty), {})
    np.testing.assert_array_equal(again, got)
    batch = learned.as_batch(samples)
    np.testing.assert_array_equal(batch["segments"].sum(1), [5, 3])
    np.testing.assert_array_equal(batch["loss_mask"], samples.mask)
