"""How commands end: exit codes, what is on stderr, what is in error.txt."""

import asyncio
import gc
import json
import logging
import os
import pathlib
import runpy
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import pytest

from alignjax.cli import outcome
from alignjax.core import errors, shapes
from alignjax.training import patience
from tests.commands import cli


@pytest.fixture
def end(tmp_path, capsys):
    """(exit code, lines on stderr) of a command, with tmp_path as the folder for error.txt."""

    def run(fn, *, debug=False, log_folder=tmp_path):
        code = outcome.run_command(fn, debug=debug, log_folder=log_folder)
        out, err = capsys.readouterr()
        assert not out
        return code, err.splitlines()

    return run


def raises(error):
    def command():
        raise error

    return command


def in_experiments(tmp_path, body, name="experiments"):
    """A command whose code lies in a folder of experiments."""
    file = tmp_path / name / "x.py"
    file.parent.mkdir(parents=True)
    file.write_text(f"import json, pathlib\ndef command():\n    {body}\n")
    return runpy.run_path(str(file))["command"]


def test_finished(end):
    assert end(lambda: None) == (0, [])
    assert end(lambda: 0) == (0, [])
    assert end(lambda: 3) == (3, [])
    assert end(raises(SystemExit(0))) == (0, [])
    assert end(raises(SystemExit(None))) == (0, [])
    assert end(raises(SystemExit(2))) == (2, [])
    assert end(raises(SystemExit("words"))) == (1, ["alignjax: error: words"])


@pytest.mark.parametrize(
    ("kind", "code"), [(errors.Failure, 1), (errors.NonFinite, 3), (errors.Preempted, 143)]
)
def test_failures_have_their_code(end, tmp_path, kind, code):
    assert end(raises(kind("it\nstopped"))) == (code, ["alignjax: error: it stopped"])
    assert not list(tmp_path.iterdir())


def test_keyboard(end):
    code, lines = end(raises(KeyboardInterrupt()))
    assert (code, len(lines)) == (143, 1)
    assert "stopped from the keyboard" in lines[0]


def test_our_value_error_is_usage(end, tmp_path):
    got = end(lambda: shapes.check_number("loop.steps", -1, minimum=1))
    assert got == (2, ["alignjax: error: loop.steps must be finite and >= 1; got -1."])
    assert not list(tmp_path.iterdir())


def test_our_value_error_inside_jit_is_usage(end):
    def command():
        jax.jit(lambda x: shapes.check("logits", x, "B T"))(jnp.zeros(3))

    assert end(command) == (2, ["alignjax: error: logits must have shape [B T]; got (3,)."])


def test_experiments_are_ours_and_their_messages_one_line(end, tmp_path):
    command = in_experiments(tmp_path, r"raise ValueError('a must\n\n be\r\x1b[31m b\u2028c')")
    assert end(command) == (2, ["alignjax: error: a must be \\x1b[31m b c"])


@pytest.mark.parametrize("name", ["experimental", "experiments/lib/site-packages"])
def test_elsewhere_is_not_ours(end, tmp_path, name):
    code, lines = end(in_experiments(tmp_path, "raise ValueError('a')", name))
    assert code == 1
    assert lines[0] == "alignjax: error: ValueError: a"


def test_a_message_is_cut(end, tmp_path):
    code, lines = end(in_experiments(tmp_path, "raise ValueError('ab ' * 5000)"))
    assert code == 2
    assert len(lines) == 1
    assert 900 < len(lines[0]) < 1100


@pytest.mark.parametrize("empty", ["ValueError()", "ValueError(' ')"])
def test_an_empty_message_still_says_something(end, tmp_path, empty):
    assert end(in_experiments(tmp_path, f"raise {empty}")) == (2, ["alignjax: error: ValueError"])


def test_a_missing_file_is_usage_through_the_standard_library(end, tmp_path):
    missing = tmp_path / "none.json"
    code, lines = end(in_experiments(tmp_path, f"pathlib.Path({str(missing)!r}).read_text()"))
    assert (code, lines) == (2, [f"alignjax: error: No such file or directory: {str(missing)!r}"])


def test_a_folder_as_a_file_is_usage(end, tmp_path):
    code, lines = end(in_experiments(tmp_path, f"open({str(tmp_path)!r})"))
    assert (code, lines) == (2, [f"alignjax: error: Is a directory: {str(tmp_path)!r}"])


def test_a_full_disk_is_a_failure(end, tmp_path):
    code, lines = end(in_experiments(tmp_path, "raise OSError(28, 'No space left', 'x')"))
    assert code == 1
    assert lines == [
        "alignjax: error: a disk must have room for what is written; got No space left: 'x' in "
        "command. Make room and run the same command again."
    ]


def test_a_librarys_value_error_is_condensed(end, tmp_path):
    code, lines = end(in_experiments(tmp_path, "json.loads('x')"))
    assert code == 1
    assert len(lines) <= 5
    assert "JSONDecodeError: Expecting value" in lines[0]
    assert f"{tmp_path}/experiments/x.py:3 in command" in lines[1]
    assert "decoder.py" in lines[2]
    assert lines[-1].endswith(f"is in {tmp_path / 'error.txt'}.")
    text = (tmp_path / "error.txt").read_text()
    assert "Traceback (most recent call last)" in text
    assert "in raw_decode" in text


@pytest.mark.parametrize(
    "body",
    [
        "jax.vmap(lambda a, b: a)(jnp.zeros(3), jnp.zeros(4))",
        "jax.jit(lambda: jax.lax.scan(lambda c, x: (c, x), 0, (jnp.zeros(3), jnp.zeros(4))))()",
    ],
)
def test_jaxs_errors_are_not_taken_for_ours(end, tmp_path, body):
    before = jax.config.values["jax_traceback_filtering"]
    setup = "import jax; import jax.numpy as jnp; "
    code, lines = end(in_experiments(tmp_path, setup + body))
    assert code == 1
    assert len(lines) <= 5
    assert "alignjax: error: ValueError: " in lines[0]
    assert "jax/_src" in (tmp_path / "error.txt").read_text()
    assert jax.config.values["jax_traceback_filtering"] == before


def test_a_bug_of_ours_is_a_failure(end, tmp_path):
    code, lines = end(in_experiments(tmp_path, "{}['a']"))
    assert code == 1
    assert lines[0] == "alignjax: error: KeyError: 'a'"
    assert len(lines) <= 5


def test_memory(end):
    code, lines = end(raises(MemoryError()))
    assert code == 1
    assert "host ran out of memory" in lines[0]
    message = "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\n" + "buffers\n" * 99
    code, lines = end(raises(jax.errors.JaxRuntimeError(message)))
    assert code == 1
    assert "device ran out of memory: RESOURCE_EXHAUSTED: Out of memory allocating 9" in lines[0]
    assert "batch_size" in lines[1]
    assert len(lines) <= 5


def test_first_causes_stay(end, tmp_path):
    end(raises(KeyError("first")))
    end(raises(KeyError("second")))
    text = (tmp_path / "error.txt").read_text()
    assert text.index("first") < text.index("second")


def test_where_error_txt_goes(end, tmp_path):
    end(raises(KeyError("a")), log_folder=tmp_path / "new" / "run")
    assert (tmp_path / "new" / "run" / "error.txt").exists()
    (tmp_path / "file").touch()
    for folder in (None, tmp_path / "file" / "below"):
        _, lines = end(raises(KeyError("elsewhere")), log_folder=folder)
        file = pathlib.Path(lines[-1].removeprefix("  The full traceback is in ")[:-1])
        assert "elsewhere" in file.read_text()
        file.unlink()
        file.parent.rmdir()


def test_debug_shows_the_traceback_first(end):
    def command():
        shapes.check_number("a", 0, above=0)

    code, lines = end(command, debug=True)
    assert code == 2
    assert lines[0].startswith("Traceback (most recent call last)")
    assert lines[-1] == "alignjax: error: a must be finite and > 0; got 0."
    code, lines = end(raises(KeyError("a")), debug=True)
    assert code == 1
    assert "KeyError: 'a'" in lines


def test_secrets_are_never_shown(end, tmp_path, monkeypatch):
    values = {
        "HF_TOKEN": "hf_abcdef",
        "MY_API_KEY": "key-12345",
        "AWS_SECRET_ACCESS_KEY": "s3cr3t!",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HTTPS_PROXY", "http://me:pass-word@proxy:80")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "parallel")
    said = " ".join([*values.values(), "http://me:pass-word@proxy:80", "parallel"])
    for debug in (False, True):
        _, lines = end(raises(KeyError(said)), debug=debug)
        shown = "\n".join(lines) + (tmp_path / "error.txt").read_text()
        assert not [v for v in [*values.values(), "pass-word"] if v in shown]
        assert "[HF_TOKEN] [MY_API_KEY] [AWS_SECRET_ACCESS_KEY]" in shown
        assert "me:[HTTPS_PROXY]@proxy:80 parallel" in shown


def test_as_a_process(tmp_path):
    code = (
        "import os, signal, sys, time\n"
        "from alignjax.cli import outcome; from alignjax.core import shapes\n"
        # Background jobs of a shell ignore the signal, and so do their children.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def main():\n"
        "  if sys.argv[1] == 'usage': shapes.check_choice('a', 'x', ['y'])\n"
        "  if sys.argv[1] == 'interrupt': os.kill(os.getpid(), 2); time.sleep(9)\n"
        "  return {}[sys.argv[1]]\n"
        "sys.exit(outcome.run_command(main, debug=False, log_folder=None))"
    )
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "TMPDIR": str(tmp_path)}
    got = {}
    for word in ("usage", "interrupt", "bug"):
        done = subprocess.run(
            [sys.executable, "-c", code, word], capture_output=True, text=True, env=env, check=False
        )
        assert "Traceback" not in done.stderr
        got[word] = (done.returncode, len(done.stderr.splitlines()))
    assert got["usage"] == (2, 1)
    assert got["interrupt"] == (143, 1)
    assert got["bug"][0] == 1
    assert got["bug"][1] <= 5
    assert json.dumps("bug")[1:-1] in next(tmp_path.rglob("error.txt")).read_text()


def test_a_reader_that_leaves_is_no_error(tmp_path):
    """As in `alignjax methods | head -1`: nothing on stderr, and the code of SIGPIPE."""
    command = [sys.executable, "-m", "alignjax", "methods"]
    own = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cli.ROOT, text=True
    )
    own.stdout.close()
    assert own.stderr.read() == ""
    assert own.wait() == 141


def test_another_broken_pipe_is_an_error(end):
    code, lines = end(raises(BrokenPipeError(32, "Broken pipe")))
    assert code == 1
    assert "Broken pipe" in lines[0]


def test_a_character_that_the_terminal_lacks_is_written_as_its_code():
    place = {**os.environ, "PYTHONIOENCODING": "ascii"}
    code = "from alignjax.cli import outcome as o; "
    code += "o.run_command(lambda: print('5 \u00b1 1'), debug=False, log_folder=None)"
    ran = subprocess.run(
        [sys.executable, "-c", code], env=place, cwd=cli.ROOT, text=True, capture_output=True
    )
    assert ran.stdout == "5 \\xb1 1\n", ran.stderr


@pytest.mark.parametrize("debug", [False, True])
def test_threads_of_libraries_print_a_line(debug, capsys):
    def fail():
        raise RuntimeError("the event loop\nis closed")

    def command():
        for _ in range(3):
            thread = threading.Thread(target=fail)
            thread.start()
            thread.join()

    hook = threading.excepthook
    threading.excepthook = threading.__excepthook__  # not that of the test runner
    try:
        assert outcome.run_command(command, debug=debug, log_folder=None) == 0
    finally:
        threading.excepthook = hook
    said = capsys.readouterr().err
    line = "alignjax: in a thread: RuntimeError: the event loop is closed\n"
    assert said.count("Traceback") == 3 if debug else said == line


def test_libraries_log_no_tracebacks(capsys):
    handler = logging.StreamHandler(sys.stderr)
    logger = logging.getLogger("absl")
    logger.addHandler(handler)

    def command():
        try:
            raise RuntimeError("no room")
        except RuntimeError:
            logger.exception("a save failed")

    try:
        assert outcome.run_command(command, debug=False, log_folder=None) == 0
        assert capsys.readouterr().err.count("Traceback") == 0
        assert outcome.run_command(command, debug=True, log_folder=None) == 0
        assert "Traceback" in capsys.readouterr().err
    finally:
        logger.removeHandler(handler)


def test_what_nobody_waited_for_is_one_short_line(capsys):
    """A full disk fails the writing of every array; asyncio tells each when it is freed."""
    handler = logging.StreamHandler(sys.stderr)
    logger = logging.getLogger("asyncio")
    logger.addHandler(handler)

    class NotWritten(Exception):
        """Of this test alone: each kind is told once a process."""

    async def fail(array):
        raise NotWritten(f"array {array} was not written\n{'x' * 5000}")

    async def save():
        tasks = [asyncio.ensure_future(fail(array)) for array in range(4)]
        await asyncio.sleep(0.01)
        del tasks

    def command():
        asyncio.run(save())
        gc.collect()

    try:
        assert outcome.run_command(command, debug=True, log_folder=None) == 0
        assert capsys.readouterr().err.count("Traceback") == 4
        assert outcome.run_command(command, debug=False, log_folder=None) == 0
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("in the background: NotWritten: array ")
        assert line.endswith(" was not written")
    finally:
        logger.removeHandler(handler)


def test_the_cause_of_a_failed_save_is_found_though_its_traceback_is_hidden():
    complaints = patience.Complaints()
    logger = logging.getLogger("absl")
    logger.addHandler(complaints)
    cause = ValueError("no room")
    record = logger.makeRecord(
        "absl", logging.ERROR, "/x/orbax/y.py", 1, "a save failed", (), (ValueError, cause, None)
    )
    try:
        assert outcome.run_command(lambda: logger.handle(record), debug=False, log_folder=None) == 0
    finally:
        logger.removeHandler(complaints)
    assert complaints.error is cause
