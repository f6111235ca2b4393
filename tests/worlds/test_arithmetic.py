"""Arithmetic in words: exact answers, splits that share nothing, rows that a rule reads."""

import numpy as np
import pytest

from alignjax.rewards import combine, rules
from alignjax.worlds import arithmetic
from tests.commands import open_model

pytest.importorskip("tokenizers", reason="tokenizers of open weights need alignjax[hf]")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    open_model.write_tokenizer(folder)
    return str(folder)


def config_of(tokenizer, **options):
    sizes = {"length": 96, "prompt_length": 80, "template": "chatml"}
    return arithmetic.ArithmeticConfig(tokenizer=tokenizer, **{**sizes, **options})


def made(config):
    return config.make(lambda line: None)


@pytest.mark.parametrize(
    ("rung", "count", "first"),
    [("ones", 100, ("0 + 0", 0)), ("tens", 8100, ("10 + 10", 20)),
     ("products", 2420, ("2 * 2 + 1", 5))],
)  # fmt: skip
def test_every_answer_is_exact(rung, count, first):
    found = list(arithmetic.problems(rung))
    assert len(found) == len(dict(found)) == count
    assert found[0] == first
    assert all(eval(problem, {}) == value for problem, value in found)


@pytest.mark.parametrize("rung", arithmetic.RUNGS)
def test_splits_share_no_problem_and_the_seed_tells_them_apart(tokenizer, rung):
    config = config_of(tokenizer, rung=rung)
    train, held = (arithmetic.draw(config, split) for split in ("train", "eval"))
    texts = [{row.columns["problem"] for row in split.rows} for split in (train, held)]
    assert not texts[0] & texts[1]
    assert len(texts[0] | texts[1]) == len(list(arithmetic.problems(rung)))
    assert len(held.rows) == config.held_out
    other = arithmetic.draw(config_of(tokenizer, rung=rung, seed=1), "eval")
    assert other.fingerprint != held.fingerprint
    assert arithmetic.draw(config, "eval").fingerprint == held.fingerprint


def test_prompts_demonstrations_and_tasks_are_of_the_same_problems(tokenizer):
    corpus = made(config_of(tokenizer, rung="ones", train_rows=20, pack=False))
    tasks, table = corpus.tasks("train"), corpus.read("prompts", "train")
    told = corpus.read("demonstrations", "train")
    assert len(tasks) == len(table["index"]) == len(told["tokens"]) == 20
    for row, index in enumerate(table["index"]):
        task = tasks[index]
        prompt = corpus.text(table["prompts"][row, : table["lengths"][row]])
        assert task["problem"] in prompt
        assert task["prompt"] == task["question"]
        answer = corpus.text(told["tokens"][row][np.asarray(told["loss_mask"][row])][:-1])
        assert answer == str(task["answer"])


def test_rules_read_answers(tokenizer):
    config = config_of(
        tokenizer, question="{problem} = ? Reply as 'Answer: <int>'.", answer="Answer: {answer}"
    )
    tasks = arithmetic.draw(config, "eval").rows[:2]
    tasks = [row.task for row in tasks]
    given = {
        "correct": rules.ExactNumber(take="marked", marker="Answer:"),
        "form": rules.Format(pattern=r"Answer: -?\d+", weight=0.1),
    }
    assert not combine.check_tasks(given, tasks).any()
    texts = [f"Answer: {tasks[0]['answer']}", str(tasks[1]["answer"])]
    np.testing.assert_allclose(combine.combined(given)(texts, tasks).reward, [1.1, 0.0])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rung": "tons"}, "data.rung must be one of ones, tens, products"),
        ({"rung": "ones", "eval_rows": 100}, "must be at most 100 together"),
        ({"question": "What?"}, r"data.question must hold \{problem\} once; got 'What\?'"),
        ({"tokenizer": ""}, "data.tokenizer must be given"),
    ],
)
def test_wrong_options_are_one_line(tokenizer, options, says):
    with pytest.raises(ValueError, match=says) as found:
        config_of(**{"tokenizer": tokenizer, **options}).validate()
    assert "\n" not in str(found.value)


def test_a_question_that_is_cut_is_refused(tokenizer):
    with pytest.raises(ValueError, match="truncated examples must be at most the share"):
        made(config_of(tokenizer, prompt_length=20)).read("prompts", "train")
