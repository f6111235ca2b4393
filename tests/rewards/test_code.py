"""Programs of a model: right, wrong, or stopped by something else; whatever they do."""

import os
import pathlib
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from alignjax.rewards import code, combine, pool, processes, programs

SECONDS = 1.0  # CPU time of a run
TASK = {"tests": ["assert f(2) == 4", "assert f(3) == 6"]}
RIGHT = "def f(x):\n    return 2 * x\n"
linux = pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")


def judge(*sources: str, task=TASK, **options) -> combine.TextScores:
    rule = code.Code(**{"timeout_s": SECONDS, "share": True, **options})
    texts = [f"So:\n```python\n{source}\n```\n" for source in sources]
    return combine.combined({"code": rule}, allow_code=True)(texts, [task] * len(texts))


def left() -> set[int]:
    """Processes of programs, which are no workers."""
    workers = {worker.process.pid for worker in pool.shared().workers}
    return processes.members(-1, f"{os.getpid()}-") - workers


# program: (what it does, score or None for a failure, whether the test is quick)
PROGRAMS = {
    "loop": ("while True: pass", 0.0, True),
    "loop in a test": ("def f(x):\n  if x == 2: return 4\n  while True: pass", 0.5, False),
    "sleep": ("import time; time.sleep(1000)", None, True),
    "fork bomb": ("import os\nfor _ in range(11): os.fork()\nwhile True: pass", 0.0, True),
    "stubborn fork bomb": (
        "import os\nfor _ in range(11):\n  try:\n    if os.fork() == 0: os.setsid()\n"
        "  except OSError: pass\nwhile True: pass", 0.0, False,
    ),
    "segfault": ("import ctypes; ctypes.string_at(0)", 0.0, True),
    "memory": ("held = []\nwhile True: held.append(bytearray(1 << 26))", 0.0, False),
    "output": ("while True: print('x' * 100000)", 0.0, False),
    "disk": ("f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20))", 0.0, False),
    "signals": (
        "import signal\nfor s in (signal.SIGTERM, signal.SIGXCPU, signal.SIGINT):\n"
        "  signal.signal(s, signal.SIG_IGN)\nwhile True: pass", 0.0, False,
    ),
    "grandchild": (
        "import os, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n"
        "    time.sleep(1000)\n  os._exit(0)\n" + RIGHT, 1.0, True,
    ),
    "another program": (
        "import subprocess\nsubprocess.Popen(['sleep', '1000'], start_new_session=True, env={})\n"
        + RIGHT, 1.0, True,
    ),
    "says that it passed": ("print('pass 0'); print('pass 1')\nimport os; os._exit(0)", 0.0, True),
}  # fmt: skip


@linux
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if PROGRAMS[n][2] else pytest.mark.slow) for n in PROGRAMS]
)
def test_whatever_a_program_does(name):
    """It has its score, its neighbours have theirs, and nothing of it is left."""
    source, score, _ = PROGRAMS[name]
    scores = judge(RIGHT, source, RIGHT)
    np.testing.assert_array_equal(scores.reward, [1.0, np.nan if score is None else score, 1.0])
    assert scores.failed.tolist() == [False, score is None, False]
    assert not left()


@linux
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_it_is_over_within_its_deadline_and_two_seconds(name):
    def seconds() -> float:
        judge(RIGHT)
        begun = time.monotonic()
        judge(PROGRAMS[name][0])
        return time.monotonic() - begun

    promise = programs.wall(SECONDS) + 2
    assert seconds() <= promise or seconds() <= promise


@linux
@pytest.mark.slow
def test_a_program_that_has_little_of_a_busy_machine_is_not_stopped_as_idle():
    """All CPUs are taken by others of a higher priority; it still gets the CPU time that it may."""
    others = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(3 * (os.cpu_count() or 1))
    ]
    try:
        scores = judge("import os\nos.nice(5)\nwhile True: pass", "import os\nos.nice(5)\n" + RIGHT)
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert scores.reward[1] == 1.0
    assert scores.reward[0] == 0.0 or "within 11 seconds" in scores.problems[0]


def test_the_clock_is_a_failure_that_is_told():
    scores = judge("import time; time.sleep(1000)")
    assert re.match(
        r"code: RuntimeError: a program did not end within \d+ seconds, though it had CPU "
        r"time left \(row 0, text",
        scores.problems[0],
    )


@linux
def test_under_root_a_program_is_nobody_who_matters(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    tmp_path.chmod(0o755)
    (tmp_path / "kept").write_text("1")
    source = (
        f"import os, signal\nfor change in (lambda: os.remove({str(tmp_path / 'kept')!r}),\n"
        f"               lambda: open({str(tmp_path / 'new')!r}, 'w'), lambda: os.setuid(0),\n"
        "               lambda: os.kill(os.getppid(), signal.SIGKILL)):\n"
        "    try:\n        change()\n    except PermissionError:\n        continue\n"
        "    raise SystemExit('it could')\n"
        "try:\n    os.kill(-1, signal.SIGKILL)\nexcept OSError:\n    pass\n"
        "assert os.getuid() == os.geteuid() != 0\n" + RIGHT
    )
    assert judge(source, RIGHT).reward.tolist() == [1.0, 1.0]
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]


def test_programs_never_run_as_root(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv(processes.USER, raising=False)
    with pytest.raises(RuntimeError, match="programs must not run as root"):
        programs.run({"program": RIGHT}, {}, 1)


@pytest.mark.parametrize(
    ("map_", "first"),
    [
        (b"         0          0 4294967295\n", processes.LARGE_IDS[0]),
        (b"0 100000 65536\n", processes.SMALL_IDS[0]),
        (b"0 1000 1\n", 0),
    ],
)
def test_users_are_taken_from_ids_that_the_container_has(map_, first, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(processes, "_read", lambda entry, name: map_)
    users = [processes.spare_user(number) for number in range(4)]
    counts = {0: 1, processes.LARGE_IDS[0]: 2_000_000_000, processes.SMALL_IDS[0]: 606}
    assert all(first <= user < first + counts[first] for user in users)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert processes.spare_user(0) == 0


def test_a_worker_that_a_program_kills_is_a_failure():
    """Where programs have the user of their worker; under root they can't."""
    if os.geteuid() == 0:
        pytest.skip("root's programs are another user")
    source = "import os, signal; os.kill(os.getppid(), signal.SIGKILL)"
    scores = judge(RIGHT, source, RIGHT)
    assert scores.failed.tolist() == [False, True, False]
    assert not left()


def test_inputs_and_outputs():
    task = {"tests": [{"input": "1 2\n", "output": "3"}, {"input": "2 2\n", "output": "4\n"}]}
    good = "a, b = map(int, input().split())\nprint(a + b)"
    assert judge(good, "print(3)", "print(input())", task=task).reward.tolist() == [1.0, 0.5, 0.0]
    assert judge(good, "print(3)", task=task, share=False).reward.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("output", "wanted", "same"),
    [
        (b"3\n", "3", True), (b"3 \n\n", "3\n", True), (b" 3", "3", False), (b"", "", True),
        (b"1\r\n2\r\n", "1\n2\n", True), (b"1\n\n2", "1\n2", False), (b"\xff", "x", False),
    ],
)  # fmt: skip
def test_blanks_at_the_ends_of_lines_do_not_count(output, wanted, same):
    assert programs.same(output, wanted) is same


def test_it_passes_its_own_examples():
    for share in (False, True):
        given = {"code": code.Code(share=share)}
        combine.probe(given, [TASK], combine.combined(given, allow_code=True))


def test_an_interpreter_that_fails_is_told_before_a_run(monkeypatch, tmp_path):
    """All answers would else be wrong."""
    broken = tmp_path / "program.py"
    broken.write_text("raise SystemExit('no library here')\n")
    real = programs.__file__

    given = {"code": code.Code()}
    spec = "tests.rewards.test_code:broken_programs"
    monkeypatch.setattr(code, "HANDLER", spec)
    monkeypatch.setenv("ALIGNJAX_TEST_PROGRAM", str(broken))
    with pool.Pool(1) as workers, monkeypatch.context() as patch:
        patch.setattr(pool, "shared", lambda: workers)
        with pytest.raises(ValueError, match="example 1 on this machine; got RuntimeError: a "
                           "program could not be started: no library here"):  # fmt: skip
            combine.probe(given, [TASK], combine.combined(given, allow_code=True))
    assert programs.__file__ == real


def broken_programs(spec):
    """The handler `programs.code`, where program.py fails at once."""
    programs.__file__ = str(pathlib.Path(os.environ["ALIGNJAX_TEST_PROGRAM"]))
    return programs.code(spec)
