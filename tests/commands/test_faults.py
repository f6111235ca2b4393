"""Damage and full disks, as a user meets them: the same command ends with the same bits."""

import pytest

from tests import faults
from tests.commands import cli, test_kill

pytestmark = pytest.mark.slow
STAGES = ("sft", "reward", "dpo-1", "ppo-0.3")


def harmed(step, harm, draws):
    """Does one thing to one file of a checkpoint; its name."""
    files = sorted(p for p in step.rglob("*") if p.is_file() and p.stat().st_size)
    # Two that no reading of ours needs: their loss changes nothing.
    files = [p for p in files if p.name not in ("commit_success.txt", "_CHECKPOINT_METADATA")]
    file = draws.choice(files)
    content = bytearray(file.read_bytes())
    if harm == "missing":
        file.unlink()
    elif harm == "cut":
        file.write_bytes(content[: draws.randrange(len(content))])
    else:
        content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
        file.write_bytes(content)
    return file.relative_to(step)


@pytest.mark.parametrize("harm", ["flip", "cut", "missing"])
@pytest.mark.parametrize("stage", STAGES)
def test_damage_of_the_newest_checkpoint_costs_its_steps_alone(micro, tmp_path, stage, harm):
    whole, workdir = micro.folder / stage, tmp_path / "run"
    config = cli.stage_config(tmp_path, whole, "config.loop.checkpoint_every = 2")
    cli.run("train", f"--config={config}", f"--workdir={workdir}")
    newest = max((p for p in (workdir / "checkpoints").iterdir()), key=lambda p: int(p.name))
    name = harmed(newest, harm, faults.draws(stage, harm))
    print(f"{harm}: {newest.name}/{name}")
    cli.run("train", f"--config={config}", f"--workdir={workdir}")
    assert (workdir / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert cli.stored_checksums(workdir) == cli.stored_checksums(whole)


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_ends_the_run_in_words_and_room_mends_it(micro, tmp_path, stage):
    whole, workdir = micro.folder / stage, tmp_path / "run"
    newest = max((whole / "checkpoints").iterdir(), key=lambda p: int(p.name))
    largest = max(p.stat().st_size for p in newest.rglob("*"))
    # Bytes of a file: of a record, of cached rows or of a checkpoint's arrays.
    room = int(200 * (largest / 4 / 200) ** faults.draws(stage).random())
    print(f"room for files of {room} bytes")
    (tmp_path / "full").mkdir()
    full = cli.stage_config(
        tmp_path / "full", whole,
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {10**12}))",
    )  # fmt: skip
    process = cli.start("train", f"--config={full}", f"--workdir={workdir}")
    _, said = process.communicate(timeout=600)
    assert process.returncode == 1, said[-3000:]
    assert "alignjax: error: " in said
    assert "Traceback (most" not in said
    config = cli.stage_config(tmp_path, whole)
    cli.run("train", f"--config={config}", f"--workdir={workdir}")
    test_kill.assert_undisturbed(workdir, whole)
