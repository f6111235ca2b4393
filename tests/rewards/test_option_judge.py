"""A judge by option logits: the model's own numbers, single tokens or whole, both orders."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy import special

from alignjax.models import transformer
from alignjax.rewards import option_judge
from tests.training import tiny

MODEL = transformer.transformer(dataclasses.replace(tiny.shape(), vocab_size=64))
PARAMS = jax.tree.map(lambda x: 3.0 * x, MODEL.init(jax.random.key(0)))
PREFIXES = [[2, 3, 4], [5, 6, 7, 8, 9, 10], [11], [12, 13, 14, 15]]


class Letters:
    """A token for each letter, digits two by two if asked: what a tokenizer may do to options."""

    fingerprint, vocab_size, pad_id, bos_id, eos_id, special = "x", 64, 0, 1, None, {}
    starts_with_bos = True

    def __init__(self, split: bool = False) -> None:
        self.split = split

    def encode(self, text, after=""):
        ids = [2 + ord(c) % 60 for c in text]
        return [63, *ids] if self.split and text.strip().isdigit() else ids

    def encode_many(self, texts, after=""):
        return [self.encode(text, after) for text in texts]

    def decode(self, ids):
        return ""


@jax.jit
def all_logits(tokens):
    real = np.ones((1, 32), np.int32)
    hidden, _ = MODEL.hidden(
        PARAMS, tokens, positions=np.arange(tokens.shape[1])[None], segments=real
    )
    return hidden @ MODEL.unembedding(PARAMS)


def by_hand(prefix, option):
    """The sum of log-probabilities of an option behind a prefix, from all logits."""
    tokens = np.zeros((1, 32), np.int32)
    tokens[0, : len(prefix) + len(option)] = [*prefix, *option]
    logits = np.asarray(all_logits(tokens), np.float64)[0]
    return sum(
        special.log_softmax(logits[len(prefix) - 1 + i])[token] for i, token in enumerate(option)
    )


@pytest.mark.parametrize(
    "options", [[[20], [21]], [[20], [21], [22]], [[20, 30], [20, 31]], [[20], [21, 5]]]
)
@pytest.mark.parametrize("rows", [1, 3])
def test_log_probabilities_are_the_models(options, rows):
    score = option_judge.option_logprobs(MODEL, PARAMS, rows=rows, length=12)
    want = [[by_hand(p, o) for o in options] for p in PREFIXES]
    np.testing.assert_allclose(score(PREFIXES, options), want, rtol=1e-4, atol=1e-4)


def test_one_pass_serves_options_of_one_token_only():
    assert option_judge.is_single([[4], [5]])
    assert not option_judge.is_single([[4], [5, 6]])
    assert not option_judge.is_single([[4], [4]])


def test_a_prompt_that_does_not_fit_is_nan_and_no_verdict():
    score = option_judge.option_logprobs(MODEL, PARAMS, rows=2, length=6)
    got = score([[2] * 5, [2] * 6, []], [[20], [21]])
    assert np.isfinite(got[0]).all()
    assert np.isnan(got[1:]).all()
    with pytest.raises(ValueError, match="a token each"):
        score([[2]], [[20], []])


@pytest.mark.parametrize("split", [False, True])
def test_a_pair_is_read_in_both_orders(split):
    """Also where the tokenizer puts a mark before a number, so that options share a token."""
    tokenizer = Letters(split)
    own = option_judge.local(
        MODEL, PARAMS, tokenizer, pair_template="{prompt}|{first}|{second}", rows=2, length=24,
        score_template="{prompt}:{answer}", levels=("1", "2", "3"),
    )  # fmt: skip
    found = own.pair(["pq", "r"], ["xyz", "u"], ["w", "u"])
    one, two = (tokenizer.encode(text) for text in "12")
    for row, (p, a, b) in enumerate([("pq", "xyz", "w"), ("r", "u", "u")]):
        both = []
        for x, y in ((a, b), (b, a)):
            prefix = [1, *tokenizer.encode(f"{p}|{x}|{y}")]
            both.append(by_hand(prefix, one) - by_hand(prefix, two))
        np.testing.assert_allclose(found.a_first[row], both[0], atol=2e-4)
        np.testing.assert_allclose(found.b_first[row], -both[1], atol=2e-4)
    assert found.logits[1] == pytest.approx(0, abs=1e-6)  # the same answer twice
    scores = own.score(["pq"], ["xyz"])
    prefix = [1, *tokenizer.encode("pq:xyz")]
    want = special.softmax([by_hand(prefix, tokenizer.encode(text)) for text in "123"])
    np.testing.assert_allclose(scores[0], want, atol=1e-4)


def test_bad_templates_and_options_are_refused():
    for changes, message in (
        ({"pair_template": "{prompt} {first}"}, "pair_template must hold first, prompt, second"),
        ({"score_template": "{prompt}"}, "score_template must hold answer, prompt"),
        ({"options": ("1", "1")}, "options must differ"),
        ({"levels": ("1", "")}, "options must differ and have a token"),
        ({"rows": 0}, "rows must be"),
    ):
        with pytest.raises(ValueError, match=message):
            option_judge.local(MODEL, PARAMS, Letters(), **changes)
