"""`alignjax evaluate --judge`: a run's answers against others', both orders, with intervals."""

import json
import pathlib

import numpy as np
import pytest

from alignjax.core import errors
from alignjax.rewards import judge
from alignjax.runs import judged_answers
from tests.commands import open_model
from tests.commands.test_open_weights import CONFIG
from tests.commands.test_run import call
from tests.feedback import judges


def test_win_rates_by_hand():
    verdicts = judge.Verdicts(
        np.array([2.0, -1.0, 3.0, 1.0, np.nan]), np.array([2.0, -1.0, -3.0, 1.0, 1.0])
    )
    found = judged_answers.compared("j", verdicts, ["aa"] * 5, ["b"] * 5)
    assert found.win.value == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert (found.win.n, found.report.unread, found.report.ties) == (4, 1, 1)
    assert found.report.flips.value == pytest.approx(1 / 4)
    assert found.control.longer.value == pytest.approx(2 / 3)
    low, high = judged_answers.interval(found.win)
    assert high == 1.0  # cut at the end of a share
    assert found.win.value - low == pytest.approx(1.96 * found.win.se, rel=1e-3)
    told = found.as_dict()
    assert told["win rate"]["value"] == found.win.value
    assert told["orders that disagree"]["n"] == 4
    assert "unread: 1 of 10 verdicts" in "\n".join(found.lines())
    with pytest.raises(errors.Failure, match="got 1 of 10"):
        judged_answers.check_unread(found)


def test_nothing_that_can_be_read_is_undefined_and_not_a_tie():
    none = np.full(3, np.nan)
    found = judged_answers.compared("j", judge.Verdicts(none, none), ["a"] * 3, ["b"] * 3)
    assert np.isnan(found.win.value)
    told = found.as_dict()
    assert told["win rate"]["value"] is told["win rate at equal length"]["value"] is None
    json.dumps(told, allow_nan=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold an answer at least"),
        ('{"prompt": "p"}', r"a line must be like .*own.jsonl:1"),
        ('{"prompt": "p", "answer": "a"}\n[1]', r"a line must be like .*own.jsonl:2"),
        ('{"prompt": "p", "answer": null}', r"a line must be like .*own.jsonl:1"),
    ],
)
def test_bad_files_of_answers_are_refused(tmp_path, text, message):
    file = tmp_path / "own.jsonl"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        judged_answers.read(pathlib.Path(file))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--against=x",), "--against must come with --suite or --judge; got it alone"),
        (("--out=x",), "--out must come with --suite or --judge"),
        (("--judge=JUDGE", "--data=x"), "--data must come with --suite; got it alone"),
        (("--judge=JUDGE",), "--against must name a run, or a file"),
        (("--judge=JUDGE", "--limit=-1"), "--limit must be"),
        (("--judge=JUDGE", "--processes=2"), "--judge must run in one process"),
        (("--judge=nowhere.json", "--against=x"), "--judge must be a file of JSON"),
    ],
)
def test_bad_options_are_refused_in_one_line(tmp_path, capsys, options, message):
    path = judges.rule(tmp_path, "longest")
    own = [option.replace("JUDGE", path) for option in options]
    code, out, told = call(capsys, "evaluate", f"--workdir={tmp_path}", *own)
    assert (code, out, len(told)) == (2, "", 1)
    assert message in told[0]
    assert not (tmp_path / "evaluations").exists()


@pytest.mark.slow
def test_a_run_against_another_and_against_a_file(tmp_path, capsys):
    pytest.importorskip("tokenizers", reason="open weights need alignjax[hf]")
    data = open_model.write_questions(tmp_path / "sums")
    for seed in (0, 1):
        model = open_model.write(tmp_path / f"model{seed}", seed=seed)
        config = tmp_path / f"sft{seed}.py"
        config.write_text(
            CONFIG.format(model=str(model), data=str(data), adapter="adapt.FullConfig()")
        )
        assert (
            call(capsys, "import", f"--config={config}", f"--workdir={tmp_path}/run{seed}")[0] == 0
        )
    path = judges.rule(tmp_path, "longest")
    options = (f"--judge={path}", "--max_new_tokens=12", "--rows=4")
    own = (*options, f"--workdir={tmp_path}/run0")
    code, out, told = call(capsys, "evaluate", *own, f"--against={tmp_path}/run1")
    assert code == 0, told
    assert "win rate: " in out
    rows = [
        json.loads(line)
        for line in (tmp_path / "run0/evaluations/judged.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 4
    want = [0.5 + 0.5 * np.sign(len(row["answer"]) - len(row["other"])) for row in rows]
    summary = json.loads((tmp_path / "run0/evaluations/judged.json").read_text())
    assert summary["win rate"]["value"] == pytest.approx(np.mean(want))
    assert summary["orders that disagree"]["value"] == 0
    # A run against itself ties; against a file without its prompts it is refused.
    code, out, _ = call(capsys, "evaluate", *own, f"--against={tmp_path}/run0", "--json=true")
    assert (code, json.loads(out)["win rate"]["value"]) == (0, 0.5)
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"prompt": "something else", "answer": "x"}))
    code, _, told = call(capsys, "evaluate", *own, f"--against={other}")
    assert code == 2
    assert "an answer to every prompt; got none to" in told[-1]
    lines = [json.dumps({"prompt": row["prompt"], "answer": ""}) for row in rows]
    other.write_text("\n".join(lines))
    code, out, _ = call(capsys, "evaluate", *own, f"--against={other}", "--json=true")
    assert json.loads(out)["win rate"]["value"] >= 0.5
