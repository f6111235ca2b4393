"""Where steps end in tokens, what is taken out of texts, and how step scores are joined."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.data import encoding, rows, step_ends
from alignjax.rewards import process
from alignjax.search import accuracy, extract, report, scorer, solutions
from alignjax.text import chat, tokenizer
from alignjax.worlds import chain


@pytest.fixture(scope="module")
def tok():
    return tokenizer.train_tokenizer(["One is two\nand the end is a b.", "A b?\n\nNo."] * 9, 300)


EOS, BREAK, BROKEN = 1, 3, 4  # BROKEN: a token of words and a line break
ENDS = step_ends.StepEnds(np.array([BREAK, BROKEN]), np.array([BREAK]), True)


def places(tokens, prompt, ends=ENDS):
    end = tokens.index(EOS) + 1 if EOS in tokens else len(tokens)
    sampled = (np.arange(len(tokens)) >= prompt) & (np.arange(len(tokens)) < end)
    return np.flatnonzero(step_ends.mask(ends, np.array([tokens]), sampled[None], EOS)[0]).tolist()


def test_steps_end_at_line_breaks_and_at_an_open_end():
    assert places([3, 7, 8, 3, 9, 3, 3, 9, 1], 1) == [3, 5, 7]
    assert places([7, 3, 9, 1], 1) == [2]  # a break behind the prompt ends no step
    assert places([7, 9, 4, 4, 1], 1) == [2, 3]  # lines of one token each
    assert places([7, 9, 3, 1], 1) == [2]
    assert places([7, 9, 9], 1) == [2]  # cut, no end
    assert places([7, 1, 0, 0], 1) == []
    closed = step_ends.StepEnds(np.array([8, 9]), np.zeros(0, np.int32), False)
    assert places([8, 9, 8, 7, 1], 1, closed) == [1, 2]


def test_sampled_steps_are_those_that_training_labels(tok):
    """A row of labelled steps, encoded for training: the same places, token by token."""
    row = rows.Steps(
        prompt=(chat.Turn(chat.HUMAN, "a b?"),),
        steps=("one is two", "two\nis a", "the end"),
        labels=(1.0, 1.0, 0.0),
    )
    options = encoding.Options(length=96, prompt_length=48)
    (example,), _ = encoding.encode([row], "steps", tok, options)
    ends = step_ends.of_text(tok)
    found = step_ends.mask(ends, example["ids"][None], example["mask"][None], tok.eos_id)
    own = np.flatnonzero(found[0])
    # The line break inside the second step makes it two lines.
    assert set(example["step_ends"]) < set(own.tolist())
    assert len(own) == 4


def test_a_world_says_what_its_steps_are():
    config = chain.ChainConfig(eval_rows=16, demonstrations=16)
    corpus = chain.make_corpus(config)
    table = corpus.read("steps", "eval")
    found = step_ends.mask(
        step_ends.of_corpus(corpus), table["tokens"], table["loss_mask"], corpus.eos
    )
    assert np.array_equal(found, table["step_mask"])


def test_answers_are_taken_out_of_texts():
    find = extract.extractor("last_number")
    assert find("so 3 and 4.50 dollars.") == Fraction(9, 2)
    assert find("none") is None
    assert extract.gold(find, "a\n#### 1,234") == 1234
    boxed = extract.extractor("boxed")
    assert boxed(r"\boxed{\dfrac12}") == boxed(r"\boxed{0.5}") == Fraction(1, 2)
    assert boxed(r"\boxed{x+1}") == "x+1" == extract.gold(boxed, "x + 1")
    assert extract.extractor("marked")("a\n#### 72 \nb") == 72
    assert extract.extractor("text")(" ") is None
    with pytest.raises(ValueError, match="--extract must be one of"):
        extract.extractor("last")


def test_an_extractor_that_finds_nothing_is_refused():
    own = solutions.Rows(
        np.array([[5, 6, 1], [5, 7, 1]]), np.array([1, 1]), np.array([3, 3]), np.ones(2, bool)
    )

    def named(ids):
        return "seven" if 7 in ids else "six"

    with pytest.raises(ValueError, match=r"must find an answer in some completion; got none in 2"):
        accuracy.pool_of(own, named, ["6"], extract.extractor("last_number"))
    with pytest.raises(ValueError, match="every prompt must have a right answer that is read"):
        accuracy.pool_of(own, named, [""], extract.extractor("text"))
    pool = accuracy.pool_of(own, named, ["six"], extract.extractor("text"))
    assert pool.correct.tolist() == [[1.0, 0.0]]


def test_numbers_of_samples():
    assert report.sizes("16, 1,4,4") == [1, 4, 16]
    for text, says in (("0,4", "whole numbers"), ("x", "whole numbers"), ("1", "above 1")):
        with pytest.raises(ValueError, match=says):
            report.sizes(text)


def test_steps_are_joined_as_their_formulas_say():
    logits = jnp.array([[0.0, 2.0, -1.0, 3.0], [1.0, 1.0, 1.0, 1.0]])
    mask = jnp.array([[True, True, True, False], [False] * 4])
    logs = [-math.log1p(math.exp(-z)) for z in (0.0, 2.0, -1.0)]
    for how, by_hand in (("product", sum(logs)), ("min", min(logs)), ("last", logs[-1])):
        found = jax.jit(process.joined, static_argnums=2)(logits, mask, how)
        assert found[0] == pytest.approx(by_hand, rel=1e-6)
        assert found[1] == -np.inf  # no step is no answer, not the best one
    with pytest.raises(ValueError, match="how steps are joined must be one of"):
        process.joined(logits, mask, "sum")


def test_weights_of_votes_are_probabilities():
    steps = scorer.Scorer(lambda rows: np.zeros(1), by_step=True)
    np.testing.assert_allclose(steps.weights([0.0, math.log(0.25), -np.inf]), [1, 0.25, 0])
    answers = scorer.Scorer(lambda rows: np.zeros(1), by_step=False)
    np.testing.assert_allclose(answers.weights([0.0, 900.0, -900.0]), [0.5, 1, 0], atol=1e-12)
