"""One process fails: the others end in time and say why, and a restart goes on bit for bit."""

import signal
import time

import pytest

from tests.commands import cli
from tests.processes import launch

pytestmark = pytest.mark.slow
# More steps than any of these runs gets to before its fault, at a constant rate: the schedule must
# not depend on where the fault fell.
LONG = "config.loop.steps = 400; config.optim.schedule = 'constant'; config.optim.warmup_steps = 0"


def begin(folder, fault="", config=None, **options):
    """(workdir, processes) of a run that has just been started, of the tiny SFT or a config."""
    config = config or launch.config_file(folder, LONG, fault)
    workdir = folder / "run"
    processes = launch.start(
        folder / "logs", "train", f"--config={config}", f"--workdir={workdir}", **options
    )
    return workdir, processes


def ended(processes, seconds=launch.DEADLINE):
    """The exit codes, after checking that all have ended within the deadline from now."""
    started = time.monotonic()
    codes = processes.codes(timeout=seconds)
    print(f"all ended after {time.monotonic() - started:.1f} s with {codes}")
    return codes


def finish_both(tmp_path, workdir, config=None):
    """Lets the run end with fewer steps left, and compares it with an undisturbed one."""
    done = max(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    total = done + 8
    config = config or launch.config_file(tmp_path, LONG)
    for name in (workdir, tmp_path / "whole"):
        argv = ("train", f"--config={config}", f"--config.loop.steps={total}")
        launch.run(tmp_path / f"logs-{name.name}", *argv, f"--workdir={name}")
    assert (workdir / "metrics.jsonl").read_bytes() == (
        tmp_path / "whole" / "metrics.jsonl"
    ).read_bytes()
    assert cli.stored_checksums(workdir) == cli.stored_checksums(tmp_path / "whole")


@pytest.mark.parametrize(
    ("how", "victim"),
    [
        (signal.SIGKILL, 0),
        pytest.param(signal.SIGKILL, 1, marks=pytest.mark.ci),
        pytest.param(signal.SIGSTOP, 0, marks=pytest.mark.ci),
        (signal.SIGSTOP, 1),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_a_dead_or_frozen_peer_ends_the_others(tmp_path, how, victim):
    workdir, processes = begin(tmp_path)
    try:
        processes.wait_for_steps(workdir, 6)
        processes.wait_for_save(workdir, 4)
        processes.started[victim].send_signal(how)
        begun = time.monotonic()
        other = processes.started[1 - victim]
        assert other.wait(launch.DEADLINE) != 0
        print(f"{how.name} of {victim}: {other.returncode} in {time.monotonic() - begun:.1f} s")
    finally:
        processes.kill()
    if (how, victim) == (signal.SIGKILL, 1):
        finish_both(tmp_path, workdir)


@pytest.mark.parametrize(
    ("stage", "how"),
    [
        ("reward", signal.SIGKILL),
        ("dpo-1", signal.SIGKILL),
        ("ppo-0.3", signal.SIGKILL),
        ("ppo-0.3", signal.SIGTERM),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_method_goes_on_bit_for_bit(tmp_path, lifecycle, stage, how):
    often = f"{LONG}; config.loop.checkpoint_every = 4; config.loop.log_every = 1"
    config = cli.stage_config(tmp_path, lifecycle / stage, often)
    workdir, processes = begin(tmp_path, config=config)
    try:
        processes.wait_for_steps(workdir, 6)
        processes.wait_for_save(workdir, 4)
        processes.started[1].send_signal(how)
        codes = [process.wait(launch.DEADLINE) for process in processes.started]
    finally:
        processes.kill()
    assert 0 not in codes
    assert how != signal.SIGTERM or codes == [143, 143], processes.report()
    finish_both(tmp_path, workdir, config)


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.ci)])
def test_a_terminated_process_makes_all_save_the_same_step(tmp_path, victim):
    workdir, processes = begin(tmp_path)
    processes.wait_for_steps(workdir, 6)
    processes.started[victim].terminate()
    assert ended(processes) == [143, 143], processes.report()
    lines = [processes.err(i).strip().splitlines()[-1] for i in (0, 1)]
    assert [line.partition("error: ")[0] for line in lines] == ["alignjax[0]: ", "alignjax[1]: "]
    assert lines[0].partition("error: ")[2] == lines[1].partition("error: ")[2]
    step = int(lines[0].partition("after step ")[2].split()[0])
    rows = (workdir / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == step
    assert (workdir / "checkpoints" / str(step)).is_dir()
    if victim == 1:
        finish_both(tmp_path, workdir)


NO_CORPUS = """
import os, signal

from alignjax.runs import experiment

inner = experiment.make_corpus

def make_corpus(config, say):
    if index == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return inner(config, say)

experiment.make_corpus = make_corpus
"""


def test_a_process_terminated_before_its_first_step_ends_all(tmp_path):
    workdir, processes = begin(tmp_path, NO_CORPUS)
    assert ended(processes, 60 + launch.DEADLINE) == [143, 143], processes.report()
    assert not (workdir / "checkpoints").exists()
    for index in (0, 1):
        assert "The same command goes on from there." in processes.err(index)
    assert "process 1 ended this run" in processes.err(0)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_terminated_during_an_evaluation_ends_all(tmp_path, lifecycle, victim):
    argv = ("evaluate", f"--workdir={lifecycle / 'ppo-0.3'}", "--rows=4")
    processes = launch.start(tmp_path / "logs", *argv)
    try:
        while not all(processes.talked(i) for i in (0, 1)):
            assert all(p.poll() is None for p in processes.started), processes.report()
            time.sleep(0.1)
        processes.started[victim].terminate()
        assert ended(processes) == [143, 143], processes.report()
    finally:
        processes.kill()
    assert processes.out(0) == ""
    assert f"process {victim} ended this run" in processes.err(1 - victim)


BAD_ROW = """
from alignjax.data import pipeline

inner = pipeline.Batches.batch

def batch(self, step):
    if step == 5 and index == 1:
        raise ValueError("row 77 must hold tokens; got none.")
    return inner(self, step)

pipeline.Batches.batch = batch
"""
BAD_FILE = """
from alignjax.runs import experiment

def make_corpus(config, say):
    raise ValueError("data.path must hold rows; got none.")

if index == 1:
    experiment.make_corpus = make_corpus
"""
FULL_DISK = """
import resource, signal

if index == 1:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
"""


@pytest.mark.parametrize(
    ("fault", "code", "text"),
    [
        pytest.param(BAD_ROW, 2, "row 77 must hold tokens", marks=pytest.mark.ci),
        (BAD_FILE, 2, "data.path must hold rows"),
        (FULL_DISK, 1, "was not saved"),
    ],
    ids=["bad row", "bad file", "full disk"],
)
def test_an_exception_on_one_host_ends_all_with_the_first_cause(tmp_path, fault, code, text):
    workdir, processes = begin(tmp_path, fault)
    assert ended(processes, 60 + launch.DEADLINE) == [code, code], processes.report()
    assert workdir.exists() == (fault != BAD_FILE)
    for index in (0,) if fault == FULL_DISK else (0, 1):  # no room for what process 1 says either
        said = processes.err(index)
        assert text in said, processes.report()
        assert f"alignjax[{index}]: error: " in said
    assert processes.err(0).count("process 1 ended this run") == 1
    assert processes.err(0).count("error: ") == 1


DATA = """
from alignjax.runs import experiment

inner = experiment.make_corpus

def make_corpus(config, say):
    found = inner(config, say)
    return found._replace(fingerprints={**found.fingerprints, "pairs": "another file"})

if index == 1:
    experiment.make_corpus = make_corpus
"""


@pytest.mark.parametrize(
    ("fault", "words", "named"),
    [
        pytest.param("", ["--config.seed=1"], "seed: 0 and 1", marks=pytest.mark.ci),
        (DATA, [], "fingerprints.pairs: '' and 'another file'"),
        ("if index == 1: __import__('jax').__version__ = '0.1'", [], "jax: '"),
    ],
    ids=["configuration", "data", "version"],
)
def test_processes_that_differ_are_refused(tmp_path, fault, words, named):
    """R41"""
    workdir, processes = begin(tmp_path, fault, own={1: words})
    assert ended(processes, 60 + launch.DEADLINE) == [2, 2], processes.report()
    for index in (0, 1):
        assert "must be the same in all processes" in processes.err(index)
        assert named in processes.err(index)
        assert "in processes 0 and 1" in processes.err(index)
    assert not workdir.exists()
