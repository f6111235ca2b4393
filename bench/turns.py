"""Steps that begin when the runner says so: a line a turn on standard input.

The standard library alone: each arm reads this file in its own environment. What an arm tells goes
to the real standard output, a JSON object a line; what libraries print goes to standard error. A
turn is from the end of the step before to the end of its own, so that reading data is in it.
"""

import argparse
import json
import os
import pathlib
import sys
import time
from typing import Any, NamedTuple

from bench import workloads


class Task(NamedTuple):
    """What an arm does. weights: folder that `bench.weights` wrote. count: steps in all.

    threads: of computation.
    """

    case: workloads.Case
    weights: pathlib.Path
    count: int
    threads: int


def task() -> Task:
    """Of the command line."""
    parser = argparse.ArgumentParser()
    for name in ("workload", "model", "weights", "count", "threads"):
        parser.add_argument(name)
    given = parser.parse_args()
    case = workloads.case(given.workload, given.model)
    return Task(case, pathlib.Path(given.weights), int(given.count), int(given.threads))


class Turns:
    """The turns of an arm."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._begun: tuple[float, float] | None = None

    def ready(self, *, parameters: int, versions: dict[str, str], before: int = 0) -> None:
        """parameters: numbers that are trained. before: turns ahead of the first step, whose
        costs are shared among all steps."""
        self._tell(parameters=parameters, versions=versions, before=before)

    def begin(self) -> None:
        """Waits for the turn."""
        if not sys.stdin.readline():
            raise SystemExit(0)
        self._begun = time.process_time(), time.perf_counter()

    def end(self, *, tokens: int, loss: float | None = None) -> None:
        """tokens: that this code base counted in the step. loss: of the step's rows before it."""
        assert self._begun is not None
        cpu, wall = time.process_time() - self._begun[0], time.perf_counter() - self._begun[1]
        self._tell(cpu=cpu, wall=wall, peak=peak(), tokens=int(tokens), loss=loss)

    def _tell(self, **what: Any) -> None:
        print(json.dumps(what), file=self._out, flush=True)


def peak() -> float:
    """MiB that this process has held at most; what its parent held before it began is not in it."""
    status = pathlib.Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
