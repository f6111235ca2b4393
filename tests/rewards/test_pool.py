"""The pool of workers survives what jobs do: real processes, each ended in time, none left."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import pytest

from alignjax.rewards import pool, processes

ROOT = pathlib.Path(__file__).parents[2]
SECONDS = 1.0  # deadline of a job here
PROMISE = SECONDS + 2  # by when it is over
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def request(job: str, payload=0, seconds: float = SECONDS, **spec) -> pool.Request:
    return pool.Request("tests.rewards.jobs:make", {"job": job, **spec}, payload, seconds)


def left() -> set[int]:
    """Processes of jobs of this process's pools."""
    return processes.members(-1, f"{os.getpid()}-") if sys.platform == "linux" else set()


@pytest.fixture(scope="module")
def workers():
    pool.shared().close()  # of tests before these
    with pool.Pool(2) as opened:
        opened.run([request("double", i) for i in range(4)])
        yield opened
    assert not left()


# job: (a part of its error, "" for none, whether the test is quick)
ENDS = {
    "spin": ("no answer within 1 seconds", True),
    "sleep": ("no answer within 1 seconds", False),
    "fork_bomb": ("", True),
    "scattered_fork_bomb": ("", False),
    "segfault": ("died of SIGSEGV", True),
    "memory_hog": ("", False),
    "endless_output_flood": ("no answer within 1 seconds", False),
    "ignores_sigterm": ("no answer within 1 seconds", False),
    "child_ignores_sigterm": ("no answer within 1 seconds", False),
    "grandchild_of_its_own_session": ("no answer within 1 seconds", True),
    "program_of_its_own_session": ("no answer within 1 seconds", False),
    "leaves_a_child_and_dies": ("died of SIGKILL", True),
    "exits": ("SystemExit: 3", True),
    "exits_at_once": ("died of exit code 3", True),
    "too_long": ("answered over", True),
    "raises": ("ValueError: a message of two lines", True),
    "no_json": ("TypeError", True),
}


@linux
@pytest.mark.parametrize(
    "job", [pytest.param(j, marks=() if ENDS[j][1] else pytest.mark.slow) for j in ENDS]
)
def test_it_survives(job, workers):
    """The job fails, its neighbours don't, nothing of it is left."""
    outcomes = workers.run([request("double", 1), request(job), request("double", 3)])
    assert [outcome.value for outcome in outcomes] == [2, None, 6]
    assert outcomes[1].error
    assert ENDS[job][0] in outcomes[1].error
    assert "\n" not in outcomes[1].error
    mine = [worker.process.pid for worker in workers.workers]
    assert left() <= set(mine)
    assert workers.run([request("double", 5)])[0] == pool.Outcome(10)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("job", sorted(ENDS))
def test_it_is_over_within_the_deadline_and_two_seconds(job, workers):
    def seconds() -> float:
        workers.run([request("double", i) for i in range(4)])  # workers are there
        begun = time.monotonic()
        assert workers.run([request(job)])[0].error
        return time.monotonic() - begun

    # The machine may be busy with something else, once.
    assert seconds() <= PROMISE or seconds() <= PROMISE


def test_what_jobs_print_goes_nowhere(workers):
    assert workers.run([request("output_flood", seconds=20)])[0] == pool.Outcome(7)


def test_a_fork_that_returns_is_not_a_second_answer(workers):
    assert workers.run([request("comes_back_twice"), request("double", 2)]) == [
        pool.Outcome("once"), pool.Outcome(4),
    ]  # fmt: skip


def test_libraries_may_start_threads(workers):
    assert workers.run([request("many_threads", seconds=20)])[0] == pool.Outcome(200)


def test_workers_see_no_accelerator_and_no_jax(workers):
    assert workers.run([request("devices")])[0].value == ["cpu", "", False]


def test_a_handler_that_cannot_be_loaded_is_told_apart(workers):
    outcome = workers.run([request("unloadable")])[0]
    assert outcome == pool.Outcome(None, "RuntimeError: no such thing", broken=True)
    missing = pool.Request("tests.rewards.nothing:make", {}, 0, SECONDS)
    assert workers.run([missing])[0].broken


def test_a_handler_that_hangs_while_it_is_loaded_is_tried_once(monkeypatch, workers):
    monkeypatch.setattr(pool, "START_SECONDS", 1.0)
    requests = [request("hangs while loaded")] * 20 + [request("double", 3)]
    begun = time.monotonic()
    outcomes = workers.run(requests)
    assert outcomes[:20] == [pool.Outcome(None, "not ready within 1 seconds", broken=True)] * 20
    assert outcomes[20] == pool.Outcome(6)
    assert time.monotonic() - begun < 15


def test_outcomes_stand_in_the_order_of_their_requests(workers):
    payloads = [[i] * (1 + 997 * i) for i in range(40)]
    wanted = [pool.Outcome(2 * payload) for payload in payloads]
    assert workers.run([request("double", p, seconds=20) for p in payloads]) == wanted
    assert workers.run([]) == []


def test_payloads_may_be_long_and_hold_numpy(workers):
    import numpy as np

    text = "x" * (3 << 20)
    assert workers.run([request("length", {"text": text}, seconds=20)])[0].value == len(text)
    given = {"text": [np.float32(0.5), np.arange(3), np.int64(4)]}
    assert workers.run([request("length", given)])[0].value == 3
    odd = workers.run([request("double", object()), request("double", 4)])
    assert "must be JSON; got a object" in odd[0].error
    assert odd[1] == pool.Outcome(8)


def test_workers_are_replaced_after_their_lifetime():
    with pool.Pool(1, lifetime=3) as own:
        outcomes = own.run([request("pid") for _ in range(7)])
        pids = [outcome.value for outcome in outcomes]
        assert len(set(pids)) == 3
        assert pids == sorted(pids, key=pids.index)
        assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 1]


def test_threads_wait_for_one_another(workers):
    found = {}

    def ask(number: int) -> None:
        found[number] = workers.run([request("double", number) for _ in range(5)])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: [pool.Outcome(2 * i)] * 5 for i in range(4)}


def test_a_worker_that_ended_while_idle_is_replaced(workers):
    workers.run([request("double", i) for i in range(2)])
    for worker in list(workers.workers):
        worker.process.kill()
        worker.process.wait()
    assert workers.run([request("double", 6)])[0] == pool.Outcome(12)


def test_closing_ends_all_and_a_closed_pool_is_told():
    own = pool.Pool(2)
    own.run([request("double", i) for i in range(4)])
    mine = {worker.process.pid for worker in own.workers}
    assert sys.platform != "linux" or mine <= left()
    own.close()
    assert not mine & left()
    with pytest.raises(ValueError, match="a pool must be open to run jobs; this one is closed"):
        own.run([request("double", 1)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": -1}, "workers of a pool must be >= 0; got -1"),
        ({"lifetime": 0}, "lifetime of a pool must be >= 1; got 0"),
        ({"memory_mib": 0}, "memory_mib of a pool must be >= 1; got 0"),
    ],
)
def test_wrong_sizes_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        pool.Pool(**arguments)


def test_an_interrupted_call_leaves_no_job_running(monkeypatch, workers):
    real = pool._Run.step
    steps = []

    def interrupted(self):
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(pool._Run, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        workers.run([request("sleep", seconds=100)])
    monkeypatch.undo()
    assert not left()
    assert workers.run([request("double", 1)])[0] == pool.Outcome(2)


PARENT = """
import json, os, sys, time
from tests.rewards import test_pool
from alignjax.rewards import pool
own = pool.Pool(2)
own.run([test_pool.request("double", 1), test_pool.request("double", 2)])
print(json.dumps([worker.process.pid for worker in own.workers]), flush=True)
{then}
"""
# What the process that has a pool does next.
PARENTS = {
    "ends": "",
    "fails": "raise RuntimeError('no')",
    "is killed while idle": "os.kill(os.getpid(), 9)",
    "is killed while busy": (
        "import threading\n"
        "threading.Timer(1, lambda: os.kill(os.getpid(), 9)).start()\n"
        "own.run([test_pool.request('spin', seconds=100), test_pool.request('sleep', seconds=100)])"
    ),
}


@linux
@pytest.mark.parametrize(
    "what", [pytest.param(w, marks=() if w == "ends" else pytest.mark.slow) for w in PARENTS]
)
def test_workers_end_with_their_parent(what):
    process = subprocess.run(
        [sys.executable, "-c", PARENT.format(then=PARENTS[what])],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True,
    )  # fmt: skip
    pids = json.loads(process.stdout)
    end = time.monotonic() + 30
    while any(is_alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.1)
    assert not [pid for pid in pids if is_alive(pid)]


def is_alive(pid: int) -> bool:
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except FileNotFoundError:
        return False
    return stat[0] not in (b"Z", b"X")


@linux
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root, setpriv")
def test_it_survives_as_another_user_than_root():
    """RLIMIT_NPROC binds other users by themselves; root's jobs get users of their own."""
    jobs = ["fork_bomb", "scattered_fork_bomb", "program_of_its_own_session", "segfault", "spin"]
    code = (
        "import os, sys; from tests.rewards import test_pool; from alignjax.rewards import pool\n"
        "assert os.getuid() == 54321\n"
        "with pool.Pool(2) as workers:\n"
        f"    for job in {jobs!r}:\n"
        "        assert workers.run([test_pool.request(job)])[0].error, job\n"
        "        mine = {worker.process.pid for worker in workers.workers}\n"
        "        assert test_pool.left() <= mine, job\n"
        "        assert workers.run([test_pool.request('double', 1)])[0].value == 2, job\n"
        "assert not test_pool.left()\n"
    )
    capability = "-all,+dac_read_search"  # Python may stand in a folder of root's
    found = subprocess.run(
        ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups",
         "--bounding-set", capability, "--inh-caps", capability,
         "--ambient-caps", "+dac_read_search", sys.executable, "-B", "-c", code],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-2000:]


@linux
def test_as_root_a_worker_is_a_user_of_its_own(workers):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    real, effective = workers.run([request("users")])[0].value
    assert real >= processes.SMALL_IDS[0]
    assert effective == 0
    users = {processes.spare_user(number) for number in range(100)}
    assert len(users) == 100
