"""Answers of a run with a tokenizer become items; see test_run.py for those of a world's runs."""

import json
import sqlite3

import pytest

from tests.commands import cli
from tests.data.test_files import pairs, write


def query(place, text):
    connection = sqlite3.connect(place)
    try:
        return connection.execute(text).fetchall()
    finally:
        connection.close()


@pytest.mark.slow
def test_a_run_with_a_tokenizer_answers_a_file_of_prompts(tmp_path):
    path = write(tmp_path / "rows.jsonl", pairs(30))
    cli.run(
        "train", "--config=experiments/own_data.py:sft-micro", f"--config.data.path={path}",
        "--config.data.vocab_size=330", f"--workdir={tmp_path}/sft",
    )  # fmt: skip
    asked = write(tmp_path / "asked.jsonl", [{"prompt": row["prompt"]} for row in pairs(5)])
    place = tmp_path / "f.db"
    options = ("collect", f"--workdir={tmp_path}/sft", f"--database={place}")
    cli.run(*options, f"--prompts={asked}", "--candidates=3", "--max_new_tokens=12")
    turns = [json.loads(t) for (t,) in query(place, "select turns from item")]
    assert {t[0][1] for t in turns} <= {row["prompt"] for row in pairs(5)}
    assert len(turns) >= 4
    cli.run(*options, "--count=3", "--max_new_tokens=12")  # the run's own prompts
    _sees_earlier_answers(options, place, asked, tmp_path)
    long = write(tmp_path / "long.jsonl", [{"prompt": "word " * 4000}])
    process = cli.start(*options, f"--prompts={long}")
    _, error = process.communicate(timeout=240)
    assert process.returncode == 2
    assert "a prompt must have at most the run's" in error


def _sees_earlier_answers(options, place, asked, tmp_path):
    """Negatively correlated answers: what is sampled, told and stored."""
    more = (f"--prompts={asked}", "--candidates=3", "--max_new_tokens=6", "--seed=5")
    negative = (*options, *more, "--sampling=negatively_correlated")
    template = tmp_path / "template.txt"
    template.write_text("{prompt} Not: {answers}")
    process = cli.start(*negative, f"--template={template}")
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    said = next(line for line in (out + error).splitlines() if "mean pair similarity" in line)
    assert "NC ratio" in said
    last = "select source from item order by rowid desc limit 1"
    sampling = json.loads(query(place, last)[0][0])["runs"][0]["sampling"]
    assert sampling["template"] == "{prompt} Not: {answers}"
    assert sampling["earlier_answers_left_out"] >= 0
    logprobs = (
        "select logprob from candidate where item = "
        "(select id from item order by rowid desc limit 1)"
    )
    assert {p for (p,) in query(place, logprobs)} == {None}
    template.write_text("{prompt}")
    for words, says in (
        ((*negative, f"--template={template}"), "a template must have the places"),
        ((*negative, f"--template={tmp_path}"), "--template must be a file of text"),
        ((*options, *more, f"--template={template}"), "--template must come with"),
        ((*options, *more, "--sampling=hot"), "--sampling must be one of"),
    ):
        process = cli.start(*words)
        _, error = process.communicate(timeout=240)
        assert (process.returncode, error.count("\n")) == (2, 1), error
        assert says in error
