"""ChainWorld: its answers, verifier, labels and tables, beside a second implementation."""

import dataclasses
import math

import numpy as np
import pytest

from alignjax.data import tables
from alignjax.worlds import chain
from tests.reference import chain as reference

CONFIG = chain.ChainConfig(
    seed=3, modulus=7, shortest=1, longest=4, documents=600, demonstrations=80, prompts=90,
    eval_rows=40, document_error=0.2,
)  # fmt: skip
EXAMPLE = [12, 3, 8, 4, 10, 2]  # 7 + 3 * 5 =


def drawn(config=CONFIG, count=300, seed=0):
    return chain.draw_prompts(config, np.random.default_rng(seed), count)


def rows_of(config, prompts, lengths, answers, counts):
    """(tokens [N, T], lengths) of prompts joined to the first `counts` tokens of answers."""
    tokens = np.full((len(prompts), config.length), chain.PAD, np.int32)
    for row, prompt, n, answer, m in zip(tokens, prompts, lengths, answers, counts, strict=True):
        row[:n], row[n : n + m] = prompt[:n], answer[:m]
    return tokens, (lengths + counts).astype(np.int32)


def test_the_example_of_the_description():
    config = chain.ChainConfig(longest=2, shortest=2)
    prompts, lengths = np.array([EXAMPLE], np.int32), np.array([6], np.int32)
    answers, labels = chain.solve(config, prompts, lengths)
    assert answers.tolist() == [[15, 21, chain.EOS]]
    assert labels.tolist() == [[1, 1, 0]]
    assert chain.words(np.array([*EXAMPLE, 15, 21, 1])) == "7 + 3 * 5 = 10 16 <eos>"
    assert (config.vocab_size, config.prompt_length, config.length) == (22, 6, 9)


def test_prompts_have_every_length_sign_and_number():
    prompts, lengths = drawn(count=3000)
    steps = (lengths - 2) // 2
    for prompt, length in zip(prompts.tolist(), lengths.tolist(), strict=True):
        number, pairs = reference.operations(prompt[:length])
        assert 0 <= number < CONFIG.modulus
        assert all(0 <= other < CONFIG.modulus for _, other in pairs)
        assert set(prompt[length:]) <= {chain.PAD}
    counts = np.bincount(steps, minlength=5)[1:]
    assert np.abs(counts - 750).max() < 4.5 * math.sqrt(3000 * 0.25 * 0.75)
    numbers = np.bincount(prompts[prompts >= chain.FIRST], minlength=12)[chain.FIRST :]
    share = 1 / CONFIG.modulus
    assert np.abs(numbers / numbers.sum() - share).max() < 4.5 * math.sqrt(share / numbers.sum())
    plus, times = (int((prompts == sign).sum()) for sign in (chain.PLUS, chain.TIMES))
    assert abs(plus - times) < 4.5 * math.sqrt(plus + times)


def test_answers_are_those_of_the_second_implementation():
    prompts, lengths = drawn()
    answers, labels = chain.solve(CONFIG, prompts, lengths)
    for i, length in enumerate(lengths):
        found = reference.results(prompts[i, :length].tolist(), CONFIG.modulus)
        wanted = [chain.FIRST + number for number in found] + [chain.EOS]
        wanted += [chain.PAD] * (answers.shape[1] - len(wanted))
        assert answers[i].tolist() == wanted
        assert labels[i].tolist() == [1.0] * len(found) + [0.0] * (answers.shape[1] - len(found))


def test_labels_of_wrong_steps_are_those_of_the_second_implementation():
    prompts, lengths = drawn(count=600)
    answers, labels = chain.solve(CONFIG, prompts, lengths, np.random.default_rng(1), 0.3)
    wrong = 0
    for i, length in enumerate(lengths):
        steps = (length - 2) // 2
        given = answers[i, :steps].tolist()
        right = reference.right_steps(prompts[i, :length].tolist(), given, CONFIG.modulus)
        assert labels[i, :steps].tolist() == [float(x) for x in right]
        assert not labels[i, steps:].any()
        assert answers[i, steps] == chain.EOS
        assert all(0 <= token - chain.FIRST < CONFIG.modulus for token in given)
        wrong += steps - sum(right)
    total = int(((lengths - 2) // 2).sum())
    assert abs(wrong - 0.3 * total) < 4.5 * math.sqrt(total * 0.21)


def spoiled(rng, tokens, lengths):
    """Rows with a token changed, dropped, put in, or the end left out; some are left alone."""
    tokens, lengths = tokens.copy(), lengths.copy()
    for row, length, how in zip(tokens, lengths, rng.integers(0, 6, len(tokens)), strict=True):
        at = int(rng.integers(row.tolist().index(chain.EQUALS) + 1, length))
        if how == 0:
            row[at] = rng.integers(0, CONFIG.vocab_size)
        elif how == 1:
            row[at:-1] = row[at + 1 :].copy()
        elif how == 2:
            row[at + 1 :] = row[at:-1].copy()
    lengths -= rng.random(len(tokens)) < 0.15
    lengths += (rng.random(len(tokens)) < 0.1) & (lengths < tokens.shape[1])
    return tokens, lengths


def test_the_verifier_is_that_of_the_second_implementation():
    rng = np.random.default_rng(5)
    prompts, lengths = drawn(count=3000)
    answers, _ = chain.solve(CONFIG, prompts, lengths)
    counts = (lengths - 2) // 2 + 1
    tokens, ends = rows_of(CONFIG, prompts, lengths, answers, counts)
    assert chain.verify(CONFIG, tokens, ends).tolist() == [1.0] * len(tokens)
    tokens, ends = spoiled(rng, tokens, ends)
    wanted = [
        float(reference.is_right(row, length, CONFIG.modulus))
        for row, length in zip(tokens.tolist(), ends.tolist(), strict=True)
    ]
    found = chain.verify(CONFIG, tokens, ends)
    assert found.dtype == np.float32
    assert found.tolist() == wanted
    assert 0.2 < np.mean(wanted) < 0.8


@pytest.mark.parametrize("width", [0, 1, 5])
def test_the_verifier_bears_rows_of_another_width(width):
    """A sampler's rows are as wide as prompt and limit; what is behind the length is not read."""
    prompts, lengths = drawn(count=200)
    answers, _ = chain.solve(CONFIG, prompts, lengths)
    tokens, ends = rows_of(CONFIG, prompts, lengths, answers, (lengths - 2) // 2 + 1)
    behind = np.arange(tokens.shape[1]) >= ends[:, None]
    noise = np.random.default_rng(0).integers(0, CONFIG.vocab_size, tokens.shape)
    dirty = np.where(behind, noise, tokens)
    wide = np.pad(dirty, ((0, 0), (0, width)), constant_values=9)
    assert chain.verify(CONFIG, wide, ends).tolist() == [1.0] * 200
    cut = dirty[:, : CONFIG.prompt_length]  # where a longest prompt has no room for its answer
    fits = ends <= cut.shape[1]
    assert 0 < fits.sum() < 200
    found = chain.verify(CONFIG, cut, np.minimum(ends, cut.shape[1]))
    assert found.tolist() == fits.astype(float).tolist()


def test_documents_are_solved_as_often_as_the_law_says():
    prompts, lengths = drawn(count=20000)
    error = 0.15
    answers, labels = chain.solve(CONFIG, prompts, lengths, np.random.default_rng(2), error)
    steps = (lengths - 2) // 2
    tokens, ends = rows_of(CONFIG, prompts, lengths, answers, steps + 1)
    solved = chain.verify(CONFIG, tokens, ends)
    np.testing.assert_array_equal(solved, labels.sum(1) == steps)
    for difficulty in range(1, 5):
        own = solved[steps == difficulty]
        rate = (1 - error) ** difficulty
        assert float(chain.pass_rate(1 - error, difficulty)) == pytest.approx(rate)
        assert abs(own.mean() - rate) < 4.5 * math.sqrt(rate * (1 - rate) / len(own))


# --- tables -------------------------------------------------------------------------------------

SPLITS = ("train", "eval")


@pytest.fixture(scope="module")
def corpus():
    return CONFIG.make(lambda line: None)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", chain.KINDS)
def test_tables_keep_the_contract(corpus, kind, split):
    table = tables.check(corpus.table(kind, split), kind)
    counts = {"documents": 600, "prompts": 90}
    assert len(next(iter(table.values()))) == (40 if split == "eval" else counts.get(kind, 80))
    if kind == "prompts":
        assert table["index"].tolist() == list(range(len(table["index"])))
        assert table["prompts"].shape[1] == corpus.prompt_length
        return
    tokens, mask = table["tokens"], table["loss_mask"]
    assert tokens.shape[1] == corpus.length
    assert tokens.max() < corpus.vocab_size
    real = tokens != corpus.pad
    np.testing.assert_array_equal(table["segments"] != 0, real)
    assert not mask[~real].any()
    for row, own in zip(tokens.tolist(), mask.tolist(), strict=True):
        end = row.index(chain.EQUALS) + 1
        length = row.index(chain.EOS) + 1
        first = 1 if kind == "documents" else end
        assert own == [first <= i < length for i in range(len(row))]  # the end is learned
        assert set(row[length:]) <= {chain.PAD}


@pytest.mark.parametrize("split", SPLITS)
def test_scores_and_step_labels_are_those_of_the_verifier(corpus, split):
    table = corpus.table("scored", split)
    lengths = (table["tokens"] != chain.PAD).sum(1)
    np.testing.assert_array_equal(table["scores"], chain.verify(CONFIG, table["tokens"], lengths))
    assert 0 < table["scores"].mean() < 1
    table = corpus.table("steps", split)
    for row, where, labels in zip(
        table["tokens"].tolist(), table["step_mask"], table["step_labels"], strict=True
    ):
        end = row.index(chain.EQUALS) + 1
        stop = row.index(chain.EOS)
        assert np.flatnonzero(where).tolist() == list(range(end, stop))
        right = reference.right_steps(row[:end], row[end:stop], CONFIG.modulus)
        assert labels[end:stop].tolist() == [float(x) for x in right]
        assert not labels[~where].any()


def test_demonstrations_are_right(corpus):
    tokens = corpus.table("demonstrations", "train")["tokens"]
    lengths = (tokens != chain.PAD).sum(1)
    assert corpus.gold(tokens, lengths).tolist() == [1.0] * len(tokens)


def test_tasks_say_in_words_what_tokens_say(corpus):
    tasks, table = corpus.tasks("train"), corpus.table("prompts", "train")
    assert len(tasks) == 90
    for i in (0, 17, -1):
        prompt = table["prompts"][i, : table["lengths"][i]]
        assert tasks[i]["prompt"] == corpus.text(prompt)
        found = reference.results(prompt.tolist(), CONFIG.modulus)
        assert tasks[i]["answer"] == " ".join(map(str, found))
        assert tasks[i]["steps"] == len(found)
    assert tasks[3:5] == [tasks[3], tasks[4]]
    assert len(list(tasks)) == 90
    assert corpus.tasks("eval")[0] != tasks[0]


def test_a_configuration_fixes_every_bit():
    one, other = (CONFIG.make(lambda line: None) for _ in range(2))
    moved = dataclasses.replace(CONFIG, seed=4).make(lambda line: None)
    assert one.fingerprints == other.fingerprints != moved.fingerprints
    for kind in chain.KINDS:
        for split in SPLITS:
            first, second, third = (x.table(kind, split) for x in (one, other, moved))
            assert {n: x.tobytes() for n, x in first.items()} == {
                n: x.tobytes() for n, x in second.items()
            }
            name = "prompts" if kind == "prompts" else "tokens"
            assert not np.array_equal(first[name], third[name])
    train, held = (one.table("prompts", split)["prompts"] for split in SPLITS)
    assert not np.array_equal(train[: len(held)], held)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("seed", -1),
        ("modulus", 1),
        ("shortest", 0),
        ("longest", 0),
        ("longest", 1),  # below shortest
        ("documents", 0),
        ("demonstrations", 0),
        ("prompts", 0),
        ("eval_rows", 0),
        ("document_error", -0.1),
        ("document_error", 1.1),
        ("document_error", float("nan")),
    ],
)
def test_wrong_options_are_one_line(option, value):
    with pytest.raises(ValueError, match=rf"data\.{option} must be") as caught:
        dataclasses.replace(chain.ChainConfig(), **{option: value}).make(lambda line: None)
    assert "\n" not in str(caught.value)
