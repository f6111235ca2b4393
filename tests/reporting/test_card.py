"""Model cards: what an exported folder says of its run, and what it says it does not know."""

import json
import pathlib
import shutil

import pytest

from alignjax import main
from alignjax.reporting import card
from alignjax.runs import evaluated, folder, starts
from alignjax.runs import experiment as experiments

GOLDEN = pathlib.Path(__file__).parents[1] / "runs" / "golden"


@pytest.fixture
def runs(tmp_path):
    return shutil.copytree(GOLDEN, tmp_path / "moved")


@pytest.fixture
def to(tmp_path):
    (tmp_path / "my-model").mkdir()
    return tmp_path / "my-model"


def a_start(**changes):
    data = {"table": "demonstrations", "rows": 321, "files": [], "summary": ["1 row of | 9 cut"]}
    row = {
        "time": "2026-01-02T03:04:05", "command": "alignjax train --config=mine.py", "step": 0,
        "steps": 4, "versions": {"alignjax": "0.1.0", "jax": "0.10.2"}, "devices": "1 x cpu",
        "processes": 1, "data": data,
    }  # fmt: skip
    return {**row, **changes}


def test_it_holds_what_the_folder_knows(runs, to):
    run = runs / "sft"
    files = [{"name": "rows/train.jsonl", "bytes": 1234}]
    starts.add(run, a_start(data={**a_start()["data"], "files": files}))
    starts.add(run, a_start(command="alignjax train --config=/a/b/mine.py --config.loop.steps=4"))
    numbers = {"nats a token": {"value": 2.5, "se": 0.125, "n": 64}}
    content = {"step": 4, "best": False, "numbers": numbers}
    (run / evaluated.FILE).write_text(json.dumps(content))
    options = card.Options(command="alignjax export --workdir=w --to=t", licence="apache-2.0")
    text = card.text(run, to, options)
    front, _, body = text.removeprefix("---\n").partition("---\n")
    assert 'license: "apache-2.0"' in front
    assert 'tags: ["alignjax", "sft"]' in front
    assert body.lstrip().startswith("# my-model\n")
    assert "paper token_nll: -log p; mean over all counted tokens" in body
    assert "the state of step 4 of 4" in body
    assert "| preset | paper |" in body
    assert "| nats a token | 2.5000 | 0.1250 | 64 |" in body
    assert "These numbers are of" not in body
    assert "alignjax train --config=mine.py\n" in body
    assert "--config=.../mine.py --config.loop.steps=4\nalignjax export --workdir=w --to=t" in body
    assert "Trained with alignjax 0.1.0, jax 0.10.2 on 1 x cpu." in body
    assert "| rows of training | 321 |" in body
    digest = folder.read(run).values["fingerprints"]
    assert all(f"`{value}`" in body for value in digest.values())
    assert "``" not in body.replace("```", "")
    assert r"1 row of \| 9 cut" in body


def test_files_are_named_with_their_bytes(runs, to):
    files = [{"name": f"rows/{n}.jsonl", "bytes": 1000 + n} for n in range(starts.MOST_FILES + 1)]
    starts.add(runs / "sft", a_start(data={**a_start()["data"], "files": files}))
    text = card.text(runs / "sft", to, card.Options())
    assert "| `rows/0.jsonl` | 1,000 |" in text
    assert f"rows/{starts.MOST_FILES}.jsonl" not in text
    assert "Further files are not named." in text


def test_what_is_not_known_is_said(runs, to):
    text = card.text(runs / "sft-1", to, card.Options())
    assert "license" not in text.partition("\n---\n")[0]
    assert "The run was not evaluated" in text
    assert "not recorded (an older release)" in text
    assert "data of `ReviewConfig`: of no file that is known" in text


def test_numbers_of_another_step_are_told(runs, to):
    content = {"step": 2, "best": True, "numbers": {"a": {"value": float("1.5"), "se": None}}}
    (runs / "sft" / evaluated.FILE).write_text(json.dumps(content))
    text = card.text(runs / "sft", to, card.Options())
    assert "| a | 1.5000 | - | - |" in text
    assert "These numbers are of the best state, of step 2." in text


def test_numbers_of_the_loop_and_of_a_stage_stand_in(tmp_path):
    rows = [
        {"step": 0, "eval/x": 1.0, "eval/x se": 0.5},
        {"step": 4, "eval/x": 3.0, "eval/x se": 0.25},
        {"step": 5, "loss": 1.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = evaluated.last(tmp_path)
    assert found == {"step": 5, "best": False, "numbers": {"x": {"value": 3.0, "se": 0.25}}}
    stage = {"gold": {"value": 1.0, "se": 0.1, "n": 9}, "texts": ["a"]}
    (tmp_path / evaluated.STAGE).write_text(json.dumps(stage))
    assert evaluated.last(tmp_path)["numbers"] == {"gold": stage["gold"]}


def test_where_it_began_is_followed_to_the_first(runs):
    lines = card.lineage(folder.read(runs / "ppo"))
    assert lines[0].startswith("the run `sft` (sft, ")
    assert lines[1:] == ["the run `base` (pretrain, 4 steps)", "fresh weights of seed 0"]


def test_licences_beside_data(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("{}")
    assert "no licence lies beside them" in card.licence_of(file)
    (tmp_path / "LICENSE.txt").write_text("MIT License\n\nCopyright\n")
    assert card.licence_of(file) == "their file LICENSE.txt: MIT License"
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-4.0\n---\nlicense: other\n")
    assert card.licence_of(file) == "cc-by-4.0, as their README.md says"
    assert "not here now" in card.licence_of(tmp_path / "gone")


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("alignjax train --config=/a/b/c.py", "alignjax train --config=.../c.py"),
        ("alignjax train --workdir=runs/x", "alignjax train --workdir=runs/x"),
        ("alignjax evaluate --x=/a/b,/c/d", "alignjax evaluate --x=.../b,.../d"),
    ],
)
def test_absolute_paths_are_their_last_names(command, shown):
    assert card.shortened(command) == shown


def test_files_of_data_are_listed(tmp_path):
    from alignjax.data import instructions

    place = tmp_path / "rows"
    place.mkdir()
    (place / "train.jsonl").write_text("{}\n")
    config = instructions.InstructConfig(path=str(place), tokenizer="model")
    assert starts.files_of(config) == [{"name": "rows/train.jsonl", "bytes": 3}]
    assert starts.files_of(experiments.Experiment().data) == []


@pytest.mark.slow
def test_export_writes_it_after_evaluate(runs, tmp_path, capsys):
    run, to = runs / "sft", tmp_path / "model"
    assert main.main(["evaluate", f"--workdir={run}", "--rows=8"]) == 0
    said = capsys.readouterr().out
    assert main.main(["export", f"--workdir={run}", f"--to={to}", "--license=mit"]) == 0
    text = (to / "README.md").read_text()
    name, value = said.splitlines()[0].split(" ± ")[0].split(": ")
    assert f"| {name} | {value} |" in text
    assert 'license: "mit"' in text
    assert f"--to=.../{to.name} --license=mit" in text
    capsys.readouterr()
    assert main.main(["export", f"--to={to}", "--push=me/m", "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert "README.md" in out
    assert "files would be sent to me/m; none was." in out
