"""Sweeps that are refused, in one line and before anything is run."""

import json
import pathlib
import re
import textwrap

import pytest

from alignjax import main

ROOT = pathlib.Path(__file__).parents[2]
FILE = """
from alignjax.algorithms.sft import SftConfig
from alignjax.models.config import TransformerConfig
from alignjax.runs.experiment import Experiment
from alignjax.sweeps.record import Gate, Measure, Sweep
from alignjax.training.loop import LoopConfig
from alignjax.worlds.corpus import ReviewConfig

EXPECTED = {expected}


def get_config(variant=""):
    return Experiment(
        algorithm=SftConfig(),
        loop=LoopConfig(steps=3, batch_size=4),
        model=TransformerConfig(layers=1, width=16, heads=2, kv_heads=1, head_dim=8, ff=32),
        data=ReviewConfig(documents=64, demonstrations=64, prompts=64, eval_rows=16),
    )


def sweep(variant=""):
    return Sweep(
        arms={arms},
        baseline={baseline!r},
        measures=(Measure(name="loss", key="loss"),),
        {more}
    )
"""
TWO = {"slow": {"optim.learning_rate": 1e-4}, "fast": {"optim.learning_rate": 1e-2}}


def write(folder, arms=TWO, baseline="slow", expected=None, more=""):
    file = folder / "swept.py"
    file.write_text(
        FILE.format(arms=repr(arms), baseline=baseline, expected=repr(expected or {}), more=more)
    )
    return file


def refused(capsys, folder, file, *options):
    """The one line of a sweep that is refused; nothing is left behind."""
    capsys.readouterr()
    code = main.main(["sweep", f"--config={file}", f"--workdir={folder / 'out'}", *options])
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), err
    assert len(err.splitlines()) == 1, err
    assert not (folder / "out").exists()
    return err


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--sweep.optim.learning_rat=1,2", "Did you mean --sweep.optim.learning_rate"),
        ("--sweep.loop.log_every=1,2", "change what is learned; got 'loop.log_every'"),
        ("--sweep.mesh.data=1,2", "change what is learned; got 'mesh.data'"),
        ("--sweep.model.remat=none,full", "change what is learned; got 'model.remat'"),
        ("--sweep.seed=1,2", "leave seed alone"),
        ("--sweep.loop.steps=3", "at least two arms"),
        ("--sweep.loop.steps=3,3", "different values between commas"),
        ("--sweep.loop.steps=3,,4", "different values between commas"),
        ("--sweep.loop.steps=3,03", "got 'steps=3' and 'steps=03' with the same configuration"),
        ("--sweep.loop.steps=3,x", "the arm steps=x can't be made: --config.loop.steps must be"),
        ("--sweep.loop.steps=3,0", "the arm steps=0 can't be made: loop.steps must"),
        ("--seeds=1", "--seeds must be at least 2"),
        ("--seeds=-3", "--seeds must be at least 2"),
        ("--jobs=0", "--jobs must"),
        ("--jobs=100000", "--jobs must be at most"),
        ("--print=pbs", "--print must be one of slurm, xpk"),
    ],
)
def test_what_a_command_line_gets_wrong(capsys, tmp_path, option, said):
    assert said in refused(capsys, tmp_path, write(tmp_path), option)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arms": {**TWO, "x": {"optim.learning_rat": 1.0}}}, "Did you mean optim.learning_rate?"),
        ({"arms": {**TWO, "x": {"loop.log_every": 1}}}, "change what is learned"),
        ({"arms": {**TWO, "x": {"seed": 1}}}, "leave seed alone"),
        ({"arms": {**TWO, "same": TWO["fast"]}}, "got 'fast' and 'same' with the same"),
        ({"arms": {**TWO, "Fast": {"loop.steps": 9}}}, "got 'fast' and 'Fast' for 'Fast'"),
        ({"arms": {**TWO, "a/b": {}, "a:b": {"loop.steps": 9}}}, "'a/b' and 'a:b' for 'a_b'"),
        ({"arms": {"slow": {}}}, "at least two arms"),
        ({"baseline": "none"}, "baseline of sweep() must be one of slow, fast"),
        (
            {"expected": {"": {"quick": {"loss": (1.0, 0.1, 3)}}}},
            "an arm of EXPECTED (swept) must be one of slow, fast; got 'quick'",
        ),
        (
            {"expected": {"": {"fast": {"los": (1.0, 0.1, 3)}}}},
            "a measure of EXPECTED, fast (swept) must be one of loss; got 'los'",
        ),
        ({"expected": {"": {"fast": {"loss": (1.0, 0.1, 1)}}}}, "at least 2 seeds"),
        ({"expected": {"": {"fast": {"loss": 1.0}}}}, "(mean, sd, seeds)"),
        ({"more": "seeds=1,"}, "the seeds of sweep() must be at least 2"),
        ({"more": "verdict='proved',"}, "verdict of sweep() must be one of reproduced"),
        (
            {"more": "gates=(Gate(measure='loss', arm='x', rule='>', bound=0.0),),"},
            "the arm of a gate must be one of slow, fast; got 'x'",
        ),
        (
            {"more": "gates=(Gate(measure='los', arm='slow', rule='>', bound=0.0),),"},
            "the measure of a gate must be one of loss; got 'los'",
        ),
    ],
)
def test_what_a_file_gets_wrong(capsys, tmp_path, change, said):
    assert said in refused(capsys, tmp_path, write(tmp_path, **change))


def test_a_file_without_a_sweep_needs_a_field(capsys, tmp_path):
    file = write(tmp_path)
    file.write_text(file.read_text().partition("def sweep")[0])
    assert "which has no sweep(). Give --sweep.FIELD=A,B." in refused(capsys, tmp_path, file)


def test_a_folder_of_something_else_and_of_another_sweep(capsys, tmp_path):
    file = write(tmp_path)
    out = tmp_path / "out"

    def sweep(*options):
        capsys.readouterr()
        code = main.main(["sweep", f"--config={file}", f"--workdir={out}", *options])
        return code, *capsys.readouterr()

    out.mkdir()
    (out / "notes.txt").write_text("mine")
    code, _, err = sweep("--print=xpk")
    assert code == 2
    assert "must be a new folder, or that of this sweep" in err
    (out / "notes.txt").unlink()
    assert sweep("--print=xpk")[0] == 0
    before = (out / "sweep.json").read_bytes()
    for options, said in (
        (["--config.loop.steps=5"], "slow: loop.steps is 3 there, 5 now"),
        (["--sweep.loop.steps=5,6"], "the arm slow is gone"),
    ):
        code, _, err = sweep("--print=xpk", *options)
        assert code == 2
        assert said in err
        assert len(err.splitlines()) == 1
    assert (out / "sweep.json").read_bytes() == before
    # More seeds are the same sweep, and those that are there stay.
    assert "--config.seed=6" in sweep("--print=xpk", "--seeds=2", "--config.seed=5")[1]
    assert "--config.seed=4" in sweep("--print=xpk", "--seeds=2")[1]


def test_arms_of_fields_are_all_combinations_named_by_their_values(capsys, tmp_path):
    options = ("--sweep.loop.steps=3,4", "--sweep.optim.learning_rate=1e-3,1e-2", "--seeds=2")
    file = write(tmp_path)
    code = main.main(
        ["sweep", f"--config={file}", f"--workdir={tmp_path / 'out'}", "--print=xpk", *options]
    )
    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    assert len(lines) == 8
    assert "COMMAND=train launch/xpk.sh" in lines[0]
    assert "--config.loop.steps=3 --config.optim.learning_rate=1e-3 --config.seed=0" in lines[0]
    assert lines[0].endswith("arms/steps=3_learning_rate=1e-3/seed-0")


def test_a_slurm_script_is_an_array_of_the_same_runs(capsys, tmp_path):
    import subprocess

    file = write(tmp_path)
    main.main(
        ["sweep", f"--config={file}", f"--workdir={tmp_path / 'out'}", "--print=slurm",
         "--seeds=3", "--jobs=2"]
    )  # fmt: skip
    text = capsys.readouterr().out
    assert "#SBATCH --array=0-5%2" in text
    (tmp_path / "bin").mkdir()
    stub = tmp_path / "bin" / "srun"
    stub.write_text(textwrap.dedent("""\
        #!/usr/bin/env bash
        printf '%s\\n' "$@"
        exit 3
        """))  # fmt: skip
    stub.chmod(0o755)
    script = tmp_path / "array.sbatch"
    script.write_text(text)
    found = subprocess.run(
        ["bash", str(script)], text=True, capture_output=True,
        env={"PATH": f"{stub.parent}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "4"},
    )  # fmt: skip
    words = found.stdout.split("\n")
    assert found.returncode == 3
    assert words[1:3] == ["alignjax", "train"]
    assert "--config.optim.learning_rate=0.01" in words
    assert "--config.seed=1" in words


def test_every_command_of_the_page_makes_a_plan(capsys, tmp_path, monkeypatch):
    """Those of lifecycles and of files that are there; --print says what would run."""
    text = (ROOT / "docs" / "sweeps.md").read_text()
    lines = re.findall(r"^    alignjax (sweep --config=(?!experiments/my).*)$", text, re.MULTILINE)
    assert len(lines) >= 2
    monkeypatch.chdir(ROOT)
    for number, line in enumerate(lines):
        words = re.sub(r"--workdir=\S+", f"--workdir={tmp_path / str(number)}", line).split()
        assert main.main([*words, "--print=slurm"]) == 0, capsys.readouterr().err


def test_a_lifecycle_without_a_sweep_says_what_is_compared(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    options = ["--sweep.label_temperature=0,1", "--seeds=2", "--print=slurm"]
    assert (
        main.main(["sweep", "--config=lifecycle:micro", f"--workdir={tmp_path}/a", *options]) == 0
    )
    kept = json.loads((tmp_path / "a" / "sweep.json").read_text())
    names = [measure["name"] for measure in kept["sweep"]["measures"]]
    assert names[:2] == ["dpo-1: gold", "dpo-1: kl"]
    assert any(name.startswith("ppo") for name in names)
