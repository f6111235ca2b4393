"""Sweeps as a user runs them: to the end, through a failure, and on from a kill."""

import json
import os
import pathlib
import signal
import statistics
import time

import numpy as np
import pytest

from alignjax import main
from alignjax.sweeps import folder, numbers, record
from tests.commands import cli
from tests.sweeps.test_arms import write

pytestmark = pytest.mark.slow
# The second arm asks for a step that is not finite: its loop gives up with exit code 3.
GOOD = {"slow": {"optim.learning_rate": 1e-4}, "fast": {"optim.learning_rate": 1e-2}}
BAD = {**GOOD, "wrong": {"optim.learning_rate": 1e30, "loop.steps": 20}}


def rows(run: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").open()]


def texts(sweep: pathlib.Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(sweep)): file.read_bytes()
        for file in sorted(sweep.glob("arms/*/*/metrics.jsonl"))
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A sweep with an arm that fails: (its file, its folder, what it said)."""
    place = tmp_path_factory.mktemp("sweep")
    file, out = write(place, BAD), place / "out"
    process = cli.start("sweep", f"--config={file}", f"--workdir={out}", "--seeds=2", "--jobs=2")
    said = process.communicate(timeout=900)
    assert process.returncode == 1, said
    return file, out, said


def test_a_failing_arm_keeps_no_other_from_running(finished):
    _, out, (stdout, err) = finished
    assert len(texts(out)) >= 4
    for arm in GOOD:
        for seed in (0, 1):
            assert [row["step"] for row in rows(out / "arms" / arm / f"seed-{seed}")] == [0, 1, 2]
    told = [line for line in err.splitlines() if "wrong, seed" in line]
    assert len(told) == 2
    assert all("exit code 3: alignjax: error: " in line for line in told)
    assert err.splitlines()[-1] == "alignjax: error: 2 of 6 runs failed."
    assert stdout.count("not finished: wrong, seed") == 2
    assert "Traceback" not in err + stdout


def test_the_table_is_that_of_the_runs_own_logs(finished):
    _, out, (stdout, _) = finished
    content = json.loads((out / "report.json").read_text())
    last = {
        arm: [rows(out / "arms" / arm / f"seed-{seed}")[-1]["loss"] for seed in (0, 1)]
        for arm in GOOD
    }
    for arm, own in last.items():
        assert [content["values"][arm]["loss"][str(seed)] for seed in (0, 1)] == own
        shown = f"{statistics.mean(own):.3f} sd {statistics.stdev(own):.3f} n 2"
        assert shown in stdout
    assert content["values"]["wrong"]["loss"] == {}
    gaps = [fast - slow for slow, fast in zip(*last.values(), strict=True)]
    (row,) = [own for own in content["differences"] if own["arm"] == "fast"]
    assert row["value"] == pytest.approx(statistics.mean(gaps))
    assert row["high"] - row["value"] == pytest.approx(
        12.7062 * statistics.stdev(gaps) / 2**0.5, rel=1e-4
    )
    assert row["n"] == 2
    page = (out / "report.html").read_text()
    for link in ("arms/fast/seed-1/metrics.jsonl", "arms/slow/seed-0/config.json"):
        assert f'href="{link}"' in page
        assert (out / link).is_file()
    assert "--config.optim.learning_rate=0.01 --config.seed=1" in page
    assert (out / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    assert len(content["origin"]["commit"]) >= 40 or not (cli.ROOT / ".git").exists()


def test_seeds_are_paired(finished):
    """Both arms begin from the same weights and read the same rows."""
    _, out, _ = finished
    first = {
        (arm, seed): rows(out / "arms" / arm / f"seed-{seed}")[0]["loss"]
        for arm in GOOD
        for seed in (0, 1)
    }
    assert first["slow", 0] == first["fast", 0] != first["slow", 1] == first["fast", 1]


def test_what_has_finished_is_not_run_again_and_report_writes_it_anew(finished, capsys):
    file, out, (stdout, _) = finished
    before = texts(out)
    stamps = {p: p.stat().st_mtime_ns for p in out.glob("arms/[sf]*/*/metrics.jsonl")}
    cli.run("sweep", f"--config={file}", f"--workdir={out}", "--seeds=2", "--jobs=2", code=1)
    assert texts(out) == before
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    capsys.readouterr()
    assert main.main(["report", f"--workdir={out}"]) == 0
    again = capsys.readouterr().out
    assert again.split("time: ")[0] == stdout.split("time: ")[0]
    assert main.main(["report", f"--workdir={out}", "--expected"]) == 0
    own = [rows(out / "arms" / "fast" / f"seed-{seed}")[-1]["loss"] for seed in (0, 1)]
    numbers_ = f"({statistics.mean(own):.5g}, {statistics.stdev(own):.3g}, 2)"
    assert f'"loss": {numbers_},' in capsys.readouterr().out


def test_a_killed_sweep_goes_on_to_the_same_bits(finished, tmp_path):
    """SIGKILL of the sweep and of its runs, in the midst of the first one."""
    _, whole, _ = finished
    long = {name: {**own, "loop.checkpoint_every": 2} for name, own in GOOD.items()}
    long = {name: {"optim.learning_rate": own["optim.learning_rate"]} for name, own in long.items()}
    file, out = write(tmp_path, long), tmp_path / "out"
    words = ("sweep", f"--config={file}", f"--workdir={out}", "--seeds=2",
             "--config.loop.checkpoint_every=1")  # fmt: skip
    process = cli.start(*words)
    log = out / "arms" / "slow" / "seed-0" / "metrics.jsonl"
    end = time.monotonic() + 600
    while not log.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    owner = json.loads((log.parent / "owner.json").read_text())
    os.kill(process.pid, signal.SIGKILL)
    os.kill(owner["pid"], signal.SIGKILL)
    process.communicate()
    assert not (out / "report.json").exists()
    cli.run(*words)
    assert texts(out) == {
        name: content for name, content in texts(whole).items() if "wrong" not in name
    }


def test_a_signal_stops_the_runs_too(tmp_path):
    file, out = write(tmp_path, GOOD), tmp_path / "out"
    words = ("sweep", f"--config={file}", f"--workdir={out}", "--seeds=2")
    process = cli.start(*words, "--config.loop.steps=100000")
    log = out / "arms" / "slow" / "seed-0" / "metrics.jsonl"
    end = time.monotonic() + 600
    while (
        not (log.exists() and log.stat().st_size)
        and process.poll() is None
        and time.monotonic() < end
    ):
        time.sleep(0.05)
    pid = json.loads((log.parent / "owner.json").read_text())["pid"]
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 143, err
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert any((log.parent / "checkpoints").iterdir())
    assert not (out / "arms" / "fast").exists()


def test_a_sweep_waits_for_a_run_that_an_earlier_one_left_and_is_the_only_one(tmp_path):
    """Both locks are held here; a signal ends the waiting."""
    import fcntl

    file, out = write(tmp_path, GOOD), tmp_path / "out"
    words = ("sweep", f"--config={file}", f"--workdir={out}", "--seeds=2")
    (out / "arms" / "slow").mkdir(parents=True)
    cli.run(*words[:2], f"--workdir={tmp_path / 'plan'}", "--seeds=2", "--print=slurm")
    (tmp_path / "plan" / "sweep.json").rename(out / "sweep.json")
    with (out / "arms" / "slow" / "seed-0.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = cli.start(*words)
        line = process.stderr.readline()
        assert "slow, seed 0: waits for a run of it" in line
        second = cli.start(*words)
        _, err = second.communicate(timeout=300)
        assert second.returncode == 2
        assert "must be run by one process" in err
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 143, err
    assert not (out / "arms" / "slow" / "seed-0").exists()


def test_a_number_outside_of_its_band_fails_the_sweep_and_is_named(finished, tmp_path):
    _, whole, _ = finished
    own = [rows(whole / "arms" / "fast" / f"seed-{seed}")[-1]["loss"] for seed in (0, 1)]
    mean = statistics.mean(own)
    near = {"": {"fast": {"loss": (mean + 0.01, 0.1, 3)}, "slow": {"loss": (9.0, 1e-3, 3)}}}
    file, out = write(tmp_path, GOOD, expected=near), tmp_path / "out"
    process = cli.start("sweep", f"--config={file}", f"--workdir={out}", "--seeds=2", "--jobs=2")
    stdout, err = process.communicate(timeout=900)
    assert process.returncode == 1
    last = err.splitlines()[-1]
    assert "loss of slow is" in last
    assert "EXPECTED is 9 (sd 0.001, 3 seeds)" in last
    assert "loss of fast" not in last
    assert "false alarm: 0.01 over all 2 numbers" in stdout
    assert "outside" in stdout


def test_stages_of_a_lifecycle_are_trained_once_and_shared(tmp_path):
    """The estimators of ChainWorld stand on one base a seed."""
    out = tmp_path / "out"
    cli.run(
        "sweep", "--config=experiments/ablation_estimators.py:micro", f"--workdir={out}",
        "--seeds=2", "--jobs=2",
    )  # fmt: skip
    names = [p.name.partition("-")[0] for p in (out / "stages").iterdir() if p.is_dir()]
    assert {name: names.count(name) for name in ("taught", "base", "policy")} == {
        "taught": 2, "base": 2, "policy": 6,
    }  # fmt: skip
    for seed in (0, 1):
        places = {(out / "arms" / arm / f"seed-{seed}" / "base").resolve()
                  for arm in ("reinforce", "rloo", "grpo")}  # fmt: skip
        assert len(places) == 1
    alone = tmp_path / "alone"
    cli.run(
        "run", "--config=experiments/ablation_estimators.py:micro", "--config.estimator=rloo",
        "--config.seed=1", f"--workdir={alone}",
    )  # fmt: skip
    for stage in ("taught", "base", "policy"):
        shared = out / "arms" / "rloo" / "seed-1" / stage
        assert (shared / "metrics.jsonl").read_bytes() == (
            alone / stage / "metrics.jsonl"
        ).read_bytes()
    plan = folder.read(out)
    measure = record.Measure(name="x", row="policy", key="pass@1")
    found = numbers.read(folder.cells(out, plan), plan.own)
    assert found["rloo"]["pass@1"][1] == numbers.value(alone, measure)
    assert np.isfinite(found["rloo"]["pass@1"][1])
