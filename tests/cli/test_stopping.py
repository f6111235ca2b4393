"""A signal before there is anything to save: exit code 143, whatever code it comes upon."""

import os
import signal
import subprocess
import sys

import pytest

from alignjax import main
from alignjax.cli import stopping
from alignjax.commands import common

# The signal comes in a callback of the garbage collector: what is raised there is forgotten.
CALLED = """
import gc, os, signal, sys, time
number = int(sys.argv[1])
signal.signal(signal.SIGINT, signal.default_int_handler)
def stop():
    gc.callbacks.append(lambda *_: os.kill(os.getpid(), number))
    gc.collect()
    time.sleep(9)
"""
LOADING = """
class Finder:
    def find_spec(self, name, *_):
        if name == "jax":
            stop()
sys.meta_path.insert(0, Finder())
from alignjax import main
sys.exit(main.main(["methods"]))
"""
TRAINING = """
from alignjax.commands import common
common.stop_on_signals()
stop()
"""


@pytest.mark.parametrize("number", stopping.NUMBERS)
@pytest.mark.parametrize("where", [LOADING, TRAINING])
def test_a_signal_ends_the_start_of_a_command(where, number):
    done = subprocess.run(
        [sys.executable, "-c", CALLED + where, str(int(number))],
        env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (143, stopping.LINE.decode())


@pytest.fixture
def handled():
    """Both signals are handled, as in a terminal: a job in a shell's background ignores SIGINT."""
    before = {number: signal.getsignal(number) for number in stopping.NUMBERS}
    for number in before:
        signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handled")
def test_a_command_that_trains_nothing_gets_its_own_handlers_back(monkeypatch):
    before = [signal.getsignal(number) for number in stopping.NUMBERS]
    seen = []

    def parsed(argv, begins):
        seen.append([signal.getsignal(number) for number in stopping.NUMBERS])
        begins()
        seen.append([signal.getsignal(number) for number in stopping.NUMBERS])
        common.stop_on_signals()
        return 0

    monkeypatch.setattr(main, "dispatch", parsed)
    assert main.main(["sample"]) == 0
    assert seen == [[stopping.leave] * 2, before]
    assert [signal.getsignal(number) for number in stopping.NUMBERS] == before


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping.AtOnce():
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
