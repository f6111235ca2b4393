"""Labels of steps by rollouts, against the closed form of an exact policy."""

import dataclasses

import numpy as np
import pytest

from alignjax.data import step_ends
from alignjax.experiments.common import chain_policy
from alignjax.search import labels, solutions
from alignjax.worlds import chain

CONFIG = chain_policy.LabelledChainConfig(
    modulus=5,
    shortest=2,
    longest=3,
    demonstrations=200,
    labelled=200,
    eval_rows=300,
    document_error=0.25,
)


@pytest.fixture(scope="module")
def drawn():
    world = CONFIG.make(print)
    table = world.read("prompts", "eval")
    draw = chain_policy.make_draw(CONFIG, 0)
    rows = solutions.several(draw, table["prompts"], table["lengths"], 2)
    ends = np.asarray(
        step_ends.mask(step_ends.of_corpus(world), rows.tokens, rows.sampled, chain.EOS)
    )
    right = chain_policy.right_numbers(CONFIG, table["prompts"], table["lengths"])
    return draw, rows, ends, np.repeat(np.arange(len(right)), 2), right


def labelled(drawn, **options):
    draw, rows, ends, owner, right = drawn

    def is_right(own, asked):
        return chain_policy.last_numbers(CONFIG, own.tokens, own.lengths) == right[asked]

    return labels.by_rollouts(draw, rows, ends, owner, is_right, **options)


def test_the_exact_policy_solves_as_often_as_it_should(drawn):
    _, rows, _, _, _ = drawn
    solved = chain.verify(CONFIG, rows.tokens, rows.lengths).mean()
    steps = (rows.prompt_lengths - 2) // 2
    closed = chain.pass_rate(0.75, steps).mean()
    assert abs(solved - closed) < 4 * np.sqrt(closed * (1 - closed) / len(steps))


def test_a_soft_label_is_the_chance_to_come_out_right(drawn):
    """Behind a right step: q^k, and by luck what is wrong in between and right in the end."""
    _, rows, ends, owner, right = drawn
    found = labelled(drawn, rollouts=16)
    # The last step's label is the answer's outcome itself.
    last = np.where(ends, np.arange(ends.shape[1]), -1).max(axis=1)
    own = found.labels[np.arange(len(last)), last]
    assert np.array_equal(own, found.outcome)
    numbers = chain_policy.last_numbers(CONFIG, rows.tokens, rows.lengths)
    assert np.array_equal(found.outcome, numbers == right[owner])
    # One step before the end, with the number that the right chain has there, the next step is
    # right with probability q; if it errs it is another number, which is never the right one.
    before = last - 1
    prompts = np.where(rows.sampled, chain.PAD, rows.tokens)[:, : CONFIG.prompt_length]
    answers, _ = chain.solve(CONFIG, prompts, rows.prompt_lengths)
    steps = (rows.prompt_lengths - 2) // 2
    at = np.arange(len(last))
    on_track = rows.tokens[at, before] == answers[at, steps - 2]
    value = found.labels[at, before]
    assert value[on_track].mean() == pytest.approx(0.75, abs=0.02)
    assert value[~on_track].mean() < 0.3
    assert not found.labels[~ends].any()


def test_hard_labels_ask_for_one_that_is_right(drawn):
    soft, hard = labelled(drawn, rollouts=4), labelled(drawn, rollouts=4, kind="hard")
    assert np.array_equal(hard.labels, (soft.labels > 0).astype(float))
    assert 0 < soft.tokens == hard.tokens


def test_labels_of_rollouts_are_those_of_a_table():
    data = dataclasses.replace(CONFIG, labels="rollouts").make(print).read("steps", "train")
    exact = CONFIG.make(print).read("steps", "train")
    mask = exact["step_mask"]
    assert np.array_equal(data["tokens"], exact["tokens"])
    assert set(np.unique(data["step_labels"][mask] * 8)) <= set(range(9))
    by_label = [data["step_labels"][mask][exact["step_labels"][mask] == x].mean() for x in (0, 1)]
    assert by_label[1] > by_label[0] + 0.2
    scored = CONFIG.make(print).read("scored", "train")
    assert np.array_equal(scored["tokens"], exact["tokens"])
    clean = (exact["step_labels"] == mask).all(axis=1)
    assert scored["scores"][clean].all()
    assert 0 < scored["scores"][~clean].mean() < 0.4  # by luck


def test_no_rollouts_are_refused(drawn):
    with pytest.raises(ValueError, match="--rollouts must be finite and >= 1; got 0"):
        labelled(drawn, rollouts=0)
    with pytest.raises(ValueError, match="--labels must be one of soft, hard"):
        labelled(drawn, kind="firm")


def test_texts_of_steps():
    rows = solutions.Rows(
        np.array([[9, 5, 3, 6, 3, 7, 1]]), np.array([1]), np.array([7]), np.array([True])
    )
    ends = np.array([[0, 0, 1, 0, 1, 1, 0]], bool)
    text = {5: "a", 6: "b", 7: "c", 3: "\n"}
    found = labels.steps_of(rows, ends, 0, lambda ids: "".join(text[int(i)] for i in ids))
    assert found == ["a", "b", "c"]
