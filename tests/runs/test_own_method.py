"""The method and the corpus of docs/own_method.md go through every command."""

import json
import pathlib
import re

import pytest

from tests.commands import cli

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "own_method.md"
(FILE,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_an_own_method_and_corpus_go_through_every_command(tmp_path):
    file, run, whole = tmp_path / "mine.py", tmp_path / "run", tmp_path / "whole"
    file.write_text(FILE)
    cli.run("train", f"--config={file}", f"--workdir={run}", "--config.loop.steps=2")
    cli.run("train", f"--config={file}", f"--workdir={run}")
    cli.run("train", f"--config={file}", f"--workdir={whole}")
    assert cli.stored_checksums(run)["params/embed"] == cli.stored_checksums(whole)["params/embed"]
    assert [row["step"] for row in rows(run)] == [0, 1, 2, 3]
    record = json.loads((run / "config.json").read_text())
    assert record["config"]["algorithm"]["from"] == str(file)
    numbers = json.loads(cli.run("evaluate", f"--workdir={run}", "--json", "--rows=8"))
    assert {"nats a token", "length, tokens"} <= numbers.keys()
    shown = cli.run("sample", f"--workdir={run}", "--count=2", "--max_new_tokens=3")
    assert shown.count("> ") == 2
    cli.run("export", f"--workdir={run}", f"--to={tmp_path / 'hf'}")
    assert (tmp_path / "hf" / "config.json").exists()
    plan = json.loads(cli.run("plan", f"--config={file}", "--topology=cpu:1", "--json"))
    assert {"init", "collect", "update"} <= {each["name"] for each in plan["programs"]}
    # The file may move, if one says where it is.
    moved = tmp_path / "elsewhere.py"
    file.rename(moved)
    cli.run("evaluate", f"--workdir={run}", code=2)
    cli.run("evaluate", f"--workdir={run}", f"--definitions={moved}", "--rows=8")


@pytest.mark.slow
def test_a_list_of_stages_has_a_report(tmp_path):
    file, work = tmp_path / "mine.py", tmp_path / "life"
    file.write_text(FILE)
    table = cli.run("run", f"--config={file}:stages", f"--workdir={work}")
    assert "second" in table
    assert "nats a token" in table
    assert "Stairs" in (work / "report.html").read_text()


def test_a_table_that_the_data_do_not_have_is_refused(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(FILE)
    process = cli.start("train", f"--config={file}:wrong", f"--workdir={tmp_path / 'run'}")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "data must hold demonstrations for counting; got data with documents" in err
    assert "Methods that read these: import, pretrain" in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_loss_refused_while_it_is_traced_leaves_no_record(tmp_path):
    """The folder is free for the next configuration, until a step was taken."""
    file, run = tmp_path / "experiments" / "mine.py", tmp_path / "run"
    file.parent.mkdir()
    head, name, body = FILE.partition("    def loss(")
    signature, colon, rest = body.partition(":\n        ")
    assert name
    assert colon
    bad = 'raise ValueError("rows must be sorted; got others (loss). Sort them.")\n        '
    file.write_text(head + name + signature + colon + bad + rest)
    words = ("train", f"--config={file}", f"--workdir={run}", "--config.loop.steps=1")
    process = cli.start(*words)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2, err
    assert "rows must be sorted; got others" in err
    assert not (run / "config.json").exists()
    file.write_text(FILE)
    cli.run(*words, "--config.seed=5")
    before = (run / "config.json").read_bytes()
    cli.run(*words, "--config.seed=6", code=2)
    assert (run / "config.json").read_bytes() == before
