"""kill -9 at any moment of a GRPO run: the same command ends with the same bits.

The run draws by difficulty, samples twice the groups that it trains on, and samples from the policy
of the step before; groups without signal are replaced by older ones. All of that is kept.
"""

import signal
import time

import pytest

from tests import faults
from tests.commands import cli
from tests.rollouts import chain_runs

STEPS = 14
CHANGES = f"""
config.algorithm = grpo.GrpoConfig(
    **options, candidates=2.0, curriculum=2.0, lag=1, correction="truncate", dead="drop",
    replay=2, method="grpo", kl_weight=0.1,
)
config.loop = LoopConfig(steps={STEPS}, batch_size=16, checkpoint_every=3, log_every=1)
"""


@pytest.fixture(scope="module")
def whole(chain_start, tmp_path_factory):
    """(command, folder) of the run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    file = chain_runs.write(folder, chain_start, CHANGES)
    command = ("train", f"--config={file}")
    cli.run(*command, f"--workdir={folder / 'run'}")
    return command, folder / "run"


def killed(command, workdir, kills, seed):
    """Starts the run so often and kills it at a random moment of its steps; then lets it end."""
    rng = faults.draws("grpo", seed)
    file = workdir / "samples.jsonl"
    hits = 0
    for _ in range(kills):
        process = cli.start(*command, f"--workdir={workdir}")
        size = file.stat().st_size if file.exists() else 0
        target = size + rng.randrange(1, 4000)
        begin = time.monotonic()
        while process.poll() is None and time.monotonic() - begin < 240:
            if file.exists() and file.stat().st_size >= target:
                break
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1))
        hits += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    cli.run(*command, f"--workdir={workdir}")
    assert hits, "no kill hit a living process"


def assert_same(workdir, other):
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert (workdir / name).read_bytes() == (other / name).read_bytes(), name
    assert cli.stored_checksums(workdir) == cli.stored_checksums(other)
    left = [p.name for p in (workdir / "checkpoints").iterdir() if not p.name.isdigit()]
    assert not [name for name in left if "tmp" in name or name == "trash"]


def test_a_killed_run_ends_with_the_same_bits(whole, tmp_path):
    command, folder = whole
    lines = (folder / "samples.jsonl").read_text().splitlines()
    assert len(lines) == 4 * STEPS  # the first group of each step
    stored = " ".join(cli.stored_checksums(folder))
    for name in ("pass_rate", "behind", "barren", "replay"):
        assert name in stored
    killed(command, tmp_path / "run", 2, seed=0)
    assert_same(tmp_path / "run", folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_many_kills(whole, tmp_path, seed):
    command, folder = whole
    killed(command, tmp_path / "run", 5, seed)
    assert_same(tmp_path / "run", folder)
