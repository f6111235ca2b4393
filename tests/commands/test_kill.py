"""kill -9 at any moment: the same command ends with the same bits."""

import signal
import time

import pytest

from tests import faults
from tests.commands import cli


def again_and_again(micro, tmp_path, stage, kills, seed, how=signal.SIGKILL):
    """Trains a stage anew, killed so many times at random moments; then lets it end."""
    workdir = tmp_path / stage
    config = cli.stage_config(tmp_path, micro.folder / stage)
    argv = ("train", f"--config={config}", f"--workdir={workdir}")
    rng = faults.draws(stage, seed)
    survived = 0
    codes = []
    for number in range(kills):
        process = cli.start(*argv)
        begin = time.monotonic()
        # The first kill comes during start-up, the others once the folder shows life.
        if number:
            file = workdir / "metrics.jsonl"
            size = file.stat().st_size if file.exists() else -1
            while process.poll() is None and time.monotonic() - begin < 120:
                if file.exists() and file.stat().st_size != size:
                    break
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.6))
        else:
            time.sleep(rng.uniform(0.3, 3.0))
        survived += process.poll() is None
        process.send_signal(how)
        process.communicate()
        codes.append(process.returncode)
    cli.run(*argv)
    assert survived, "no kill hit a living process"
    return workdir, codes


def assert_undisturbed(workdir, whole):
    name = "metrics.jsonl"
    assert (workdir / name).read_bytes() == (whole / name).read_bytes()
    assert cli.stored_checksums(workdir) == cli.stored_checksums(whole)
    left = [p.name for p in (workdir / "checkpoints").iterdir() if not p.name.isdigit()]
    assert not [name for name in left if "tmp" in name or name == "trash"]


@pytest.mark.parametrize("stage", [pytest.param("sft", marks=pytest.mark.slow), "ppo-0.3"])
def test_killed_runs_end_with_the_same_bits(micro, tmp_path, stage):
    workdir, _ = again_and_again(micro, tmp_path, stage, kills=2, seed=0)
    assert_undisturbed(workdir, micro.folder / stage)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward", "dpo-1", "ppo-0.3", "ppo-gold-1"])
def test_many_kills(micro, tmp_path, stage):
    workdir, _ = again_and_again(micro, tmp_path, stage, kills=10, seed=1)
    assert_undisturbed(workdir, micro.folder / stage)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "ppo-0.3"])
def test_many_terminations(micro, tmp_path, stage):
    how = signal.SIGTERM
    workdir, codes = again_and_again(micro, tmp_path, stage, kills=4, seed=2, how=how)
    assert set(codes) <= {0, 143, -signal.SIGTERM}  # the last one: before a line of ours ran
    assert_undisturbed(workdir, micro.folder / stage)
