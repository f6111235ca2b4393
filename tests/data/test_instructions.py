"""Questions with answers: rows keep their columns, and rules read them."""

import json

import numpy as np
import pytest

from alignjax.data import instructions, sources
from alignjax.rewards import combine, rules
from tests.commands import open_model

pytest.importorskip("tokenizers", reason="tokenizers of open weights need alignjax[hf]")

ROWS = [
    {"question": "what is 6 times 7?", "answer": "6 * 7 = 42\n#### 42", "level": 2},
    {"question": "what is a half of 3?", "answer": "3 / 2 = 1.5\n#### 1.5", "level": 3},
    {"question": "what is 1 and 1?", "answer": "1 + 1 = 2\n#### 2", "level": 1, "tags": ["sum"]},
]


@pytest.fixture
def config(tmp_path):
    """The configuration of a folder laid out as GSM8K is."""
    (tmp_path / "data").mkdir()
    for split, rows in (("train", ROWS), ("test", ROWS[:2])):
        lines = [json.dumps(row) for row in rows]
        (tmp_path / "data" / f"gsm8k_{split}.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "model").mkdir()
    open_model.write_tokenizer(tmp_path / "model")
    return instructions.InstructConfig(
        path=str(tmp_path / "data"), tokenizer=str(tmp_path / "model"), template="chatml",
        length=96, prompt_length=64,
    )  # fmt: skip


def made(config):
    return config.make(lambda line: None)


def test_tasks_are_the_rows_with_all_their_columns(config):
    corpus = made(config)
    tasks = corpus.tasks("train")
    assert [dict(task) for task in tasks] == [{**row, "prompt": row["question"]} for row in ROWS]
    assert len(corpus.tasks("eval")) == 2


def test_documents_count_every_token(config):
    """Of questions too, which demonstrations leave out."""
    corpus = made(config)
    table = corpus.read("documents", "train")
    real = table["segments"] > 0
    firsts = real & (table["positions"] == 0)  # nothing predicts them
    np.testing.assert_array_equal(table["loss_mask"] | firsts, real)
    answers = corpus.read("demonstrations", "train")["loss_mask"].sum()
    assert (real & ~firsts).sum() > 2 * answers


def test_a_prompt_finds_its_task_by_its_index(config):
    config.train_rows = 2
    corpus = made(config)
    table, tasks = corpus.read("prompts", "train"), corpus.tasks("train")
    assert len(tasks) == len(table["index"]) == 2
    for ids, length, index in zip(table["prompts"], table["lengths"], table["index"], strict=True):
        assert tasks[index]["question"] in corpus.text(ids[:length])


def test_rules_read_worked_solutions(config):
    tasks = made(config).tasks("train")
    given = {"correct": rules.ExactNumber(take="marked"), "last": rules.LastNumber(weight=0.5)}
    assert not combine.check_tasks(given, tasks).any()
    found = combine.combined(given)(["so\n#### 42", "it is 3/2", "#### 3, no: 2"], tasks)
    np.testing.assert_array_equal(found.parts["correct"], [1, 0, 0])
    np.testing.assert_array_equal(found.parts["last"], [1, 1, 1])
    np.testing.assert_array_equal(found.reward, [1.5, 0.5, 0.5])


def test_the_prompt_holds_the_context_and_a_rule_without_its_column_is_refused(config):
    config.context, config.question = "answer", "question"
    tasks = made(config).tasks("eval")
    assert tasks[0]["prompt"] == f"{ROWS[0]['question']}\n\n{ROWS[0]['answer']}"
    with pytest.raises(ValueError, match="column 'solution' that the rule correct reads"):
        combine.check_tasks({"correct": rules.LastNumber(answer="solution")}, tasks)


def test_a_row_without_its_field_is_named(config, tmp_path):
    (tmp_path / "data" / "gsm8k_train.jsonl").write_text('{"question": "what?"}\n')
    with pytest.raises(sources.DataError, match=r"answer must be given.*line 1"):
        made(config)
