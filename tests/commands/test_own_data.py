"""A stranger's file through the command line: checked, trained on, refused in one line."""

import json

import numpy as np
import pytest

from alignjax.data import rendering
from tests.commands import cli
from tests.data.test_files import pairs, write


def test_a_file_is_checked_without_a_model_and_shown_on_a_page(tmp_path):
    rows = pairs(30)
    rows[0]["chosen"] = "<script>alert(1)</script> \x1b[31mred"
    rows += [rows[3], {**rows[4], "chosen": rows[4]["rejected"], "rejected": rows[4]["chosen"]}]
    path = write(tmp_path / "rows.jsonl", rows)
    page = tmp_path / "page.html"
    out = cli.run("check-data", path, f"--html={page}", "--examples=1")
    assert "layout pairs, by its fields" in out
    assert "rows: 32 rows of 32 read; dropped: none" in out
    assert (
        "duplicates: 1 rows, 2 repeated prompts, 2 repeated pairs (merged as votes), 1 pairs" in out
    )
    assert "columns passed through, read by no loss: source" in out
    assert "scripts by letters: Latin 100.00%" in out
    assert "\x1b" not in out  # neither colour without a terminal nor the data's own codes
    assert "»<script>alert(1)</script> <U+001B>[31mred«" in out
    html = page.read_text()
    assert "<mark>&lt;script&gt;alert(1)&lt;/script&gt; &lt;U+001B&gt;[31mred</mark>" in html
    assert "<script>" not in html
    assert "layout pairs, by its fields" in html


def test_a_bad_file_ends_with_code_2_and_one_line(tmp_path):
    path = write(tmp_path / "rows.jsonl", [*pairs(3), {"prompt": "x", "chosen": None}])
    process = cli.start("check-data", path)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert error.count("\n") == 1
    assert f"chosen must be given; got null ({path}, line 4)" in error


@pytest.mark.slow
@pytest.mark.parametrize("method", ["reward", "dpo"])
def test_votes_in_a_file_train_a_model_from_the_command_line(method, tmp_path):
    rows = [{**row, "preference": 0.8, "weight": 1 + i % 3} for i, row in enumerate(pairs(30))]
    path = write(tmp_path / "rows.jsonl", rows)
    config = "experiments/own_data.py"
    common = (f"--config.data.path={path}", "--config.data.vocab_size=330")
    cli.run("train", f"--config={config}:sft-micro", *common, f"--workdir={tmp_path}/sft")
    cli.run(
        "train", f"--config={config}:{method}-micro", *common, f"--config.policy={tmp_path}/sft",
        f"--workdir={tmp_path}/{method}",
    )  # fmt: skip
    lines = (tmp_path / method / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["bradley_terry" if method == "reward" else "dpo"] for line in lines]
    np.testing.assert_allclose(losses[0], np.log(2), rtol=1e-3)
    assert losses[-1] < losses[0]


def test_colour_marks_targets_on_a_terminal():
    shown = [rendering.Example("f, 1", (("row", (rendering.Piece("ask ", False),
                                                 rendering.Piece("say", True))),))]  # fmt: skip
    assert rendering.terminal(shown, colour=True)[2] == "ask \x1b[30;42msay\x1b[0m"


def test_the_middle_of_a_long_row_is_left_out():
    piece = rendering.Piece("a" * 5000 + "b" * 5000, True)
    (cut,) = rendering._cut([piece])
    assert len(cut.text) < rendering.LONGEST + 20
    assert cut.text.startswith("aaa")
    assert cut.text.endswith("bbb")
