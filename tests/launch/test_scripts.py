"""The scripts of launch/: well formed, and run for real with stand-ins for what they call."""

import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = [*sorted(LAUNCH.glob("*.sh")), LAUNCH / "slurm.sbatch"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_well_formed(script):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    if checker := shutil.which("shellcheck"):
        subprocess.run([checker, script], check=True)


def shell(*argv, **environment):
    """The finished command."""
    return subprocess.run(
        [str(word) for word in argv],
        env={**os.environ, **{name: str(x) for name, x in environment.items()}},
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def ends(tmp_path):
    """A command that ends with the codes of a list, one after the other, and counts its starts."""
    command = tmp_path / "command"
    command.write_text(
        f'#!/bin/bash\necho "$@" >> {tmp_path}/starts\n'
        f"n=$(wc -l < {tmp_path}/starts)\n"
        'read -ra codes <<< "$CODES"\nexit "${codes[$((n - 1))]}"\n'
    )
    command.chmod(0o755)

    def run(codes, *options):
        found = shell(
            LAUNCH / "restart.sh", *options, "--pause", 0, "--", command, "a b", CODES=codes
        )
        starts = (tmp_path / "starts").read_text().splitlines()
        assert set(starts) == {"a b"}
        return found.returncode, len(starts)

    return run


@pytest.mark.parametrize(
    ("codes", "options", "code", "starts"),
    [
        ("0", (), 0, 1),
        ("143 143 0", (), 0, 3),
        ("143 1 0", (), 1, 2),
        ("2 0", (), 2, 1),
        ("143 3 0", (), 3, 2),
        ("137 0", (), 137, 1),
        ("1 143 1 0", ("--failures", "2"), 0, 4),
        ("1 1 1 0", ("--failures", "2"), 1, 3),
        ("134 1 0", ("--failures", "2"), 0, 3),  # JAX aborts a process whose peer vanished
        ("134 0", (), 134, 1),
        ("2 0", ("--failures", "2"), 2, 1),
    ],
)
def test_a_command_starts_again_by_its_exit_code(codes, options, code, starts, ends):
    assert ends(codes, *options) == (code, starts)


@pytest.mark.parametrize(
    "options", [(), ("--",), ("--pause", "x", "--", "true"), ("--what",), ("--failures",)]
)
def test_the_loop_refuses_what_it_does_not_know(options):
    found = shell(LAUNCH / "restart.sh", *options)
    assert found.returncode == 2
    assert found.stderr.startswith("usage: restart.sh")


@pytest.mark.parametrize("saves", [0.0, 0.3])
def test_a_signal_reaches_the_command_and_nothing_starts_again(saves, tmp_path):
    command = tmp_path / "command"
    command.write_text(
        f"#!/bin/bash\ntrap 'sleep {saves}; echo saved >> {tmp_path}/log; exit 143' TERM\n"
        f"echo started >> {tmp_path}/log\nwhile :; do sleep 0.05; done\n"
    )
    command.chmod(0o755)
    loop = subprocess.Popen([LAUNCH / "restart.sh", "--pause", "0", "--", command])
    end = time.monotonic() + 30
    while not (tmp_path / "log").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    loop.send_signal(signal.SIGTERM)
    assert loop.wait(30) == 143
    assert (tmp_path / "log").read_text().split() == ["started", "saved"]


def test_a_signal_between_two_starts_ends_the_loop():
    loop = subprocess.Popen(
        [LAUNCH / "restart.sh", "--pause", "60", "--", "bash", "-c", "exit 143"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert loop.stderr is not None
    assert "again in 60 s" in loop.stderr.readline()
    loop.send_signal(signal.SIGTERM)
    assert loop.wait(30) == 143


def dry(*argv, **environment):
    found = shell(LAUNCH / "tpu_vm.sh", *argv, DRY_RUN=1, **environment)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_slices_of_hosts():
    assert "queued-resources create alignjax --zone=us-west4-a --node-id=alignjax" in dry("create")
    several = dry("create", SLICES=2, SPOT=1, NAME="two")
    assert "--node-count=2 --node-prefix=two --spot" in several
    assert "--node-id" not in several
    one = dry("train", "--config=a b.py")
    assert "tpu-vm ssh alignjax --zone=us-west4-a --worker=all" in one
    assert "restart.sh" in one
    assert "--coordinator=auto" in one
    assert "--node=all --worker=all" in dry("stop", SLICES=2)
    assert "mount" in dry("mount", SHARE="host:/runs")
    found = shell(LAUNCH / "tpu_vm.sh", "mount", DRY_RUN=1)
    assert found.returncode != 0
    assert "SHARE must be" in found.stderr
    assert shell(LAUNCH / "tpu_vm.sh").returncode == 2


def test_what_a_host_runs(tmp_path):
    """The command lines that ssh would carry, run here with a stand-in for alignjax."""
    (tmp_path / "bin").mkdir()
    words = {"gcloud": 'exec bash -c "${@: -1#--command=}"', "pip": "exit 0"}
    words["gcloud"] = 'last="${@: -1}"\nexec bash -c "${last#--command=}"'
    words["alignjax"] = f'printf "%s\\n" "$@" > {tmp_path}/words'
    for name, text in words.items():
        file = tmp_path / "bin" / name
        file.write_text(f"#!/bin/bash\n{text}\n")
        file.chmod(0o755)
    here = {"HOME": tmp_path, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    assert shell(LAUNCH / "tpu_vm.sh", "install", **here).returncode == 0
    assert (tmp_path / "restart.sh").read_text() == (LAUNCH / "restart.sh").read_text()
    found = shell(LAUNCH / "tpu_vm.sh", "train", "--config=a b.py", "--workdir=$x", **here)
    assert found.returncode == 0, found.stderr
    end = time.monotonic() + 30
    while not (tmp_path / "words").exists() or not (tmp_path / "words").read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    given = (tmp_path / "words").read_text().splitlines()
    assert given == ["train", "--coordinator=auto", "--config=a b.py", "--workdir=$x"]
    assert int((tmp_path / "alignjax.pid").read_text()) > 0


def test_xpk_gets_one_command():
    needed = {"CLUSTER": "c", "PROJECT": "p", "IMAGE": "i", "DRY_RUN": 1, "SLICES": 2}
    found = shell(LAUNCH / "xpk.sh", "--config=x.py", **needed)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("xpk workload create --cluster=c --project=p")
    assert "--num-slices=2" in found.stdout
    assert shell(LAUNCH / "xpk.sh", DRY_RUN=1).returncode != 0


@pytest.mark.parametrize(("processes", "code"), [("gpu", 0), ("gpu", 143), ("node", 2)])
def test_slurm_starts_every_process(processes, code, tmp_path):
    """With stand-ins for srun, which starts two tasks here, and for scontrol."""
    log = tmp_path / "log"
    stand_ins = {
        "srun": 'while [ "${1#--}" != "$1" ]; do shift; done\n'
        'for i in 0 1; do SLURM_PROCID=$i "$@" || bad=$?; done\nexit "${bad:-0}"',
        "scontrol": f'if [ "$1" = show ]; then echo one; echo two; else echo "$@" >> {log}; fi',
        "alignjax": f'echo "${{JAX_COORDINATOR_ADDRESS:-}} ${{JAX_NUM_PROCESSES:-}} '
        f'${{JAX_PROCESS_ID:-}} $*" >> {log}\nexit {code}',
    }
    for name, text in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    found = shell(
        LAUNCH / "slurm.sbatch",
        "--workdir=a b",
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        PROCESSES=processes,
        SLURM_JOB_ID=7,
        SLURM_JOB_NODELIST="n[1-2]",
        SLURM_JOB_NUM_NODES=2,
    )
    assert found.returncode == code, found.stderr
    lines = [line.strip() for line in log.read_text().splitlines()]
    if processes == "gpu":
        expected = ["train --coordinator=auto --workdir=a b"] * 2
    else:
        expected = [f"one:8476 2 {i} train --workdir=a b" for i in (0, 1)]
    assert lines == expected + (["requeue 7"] if code == 143 else [])
    assert shell(LAUNCH / "slurm.sbatch", PROCESSES="core").returncode == 2
