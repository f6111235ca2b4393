"""Code bases at work, each in a process of its own."""

import json
import os
import pathlib
import subprocess
import tempfile
from typing import Any

from bench import workloads

ROOT = pathlib.Path(__file__).parent.parent
LINES = 30  # of what a failed process said last


def environment(threads: int) -> dict[str, str]:
    """The environment of a process that computes on so many threads, on CPUs alone, offline."""
    alone = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "NPROC": str(threads),  # threads of XLA's pool
        "XLA_FLAGS": alone if threads == 1 else "",
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": str(ROOT),
    }


def pinned(command: list[str], threads: int) -> list[str]:
    """The command bound to one CPU, always the same, if it computes on one thread."""
    if threads > 1:
        return command
    return ["taskset", "-c", str(max(os.sched_getaffinity(0))), *command]


class Arm:
    """A code base at work on a case.

    Raises SystemExit where its process ends early, with what it said last.
    """

    def __init__(
        self,
        name: str,
        python: str,
        case: workloads.Case,
        *,
        weights: pathlib.Path,
        count: int,
        threads: int,
    ):
        self.name, self.case = name, case
        self.turns: list[dict[str, Any]] = []
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115, until `close`
        module = f"bench.arms.{name}_{case.workload.part}"
        words = [python, "-m", module, case.name, case.model_name, str(weights), str(count)]
        self._process = subprocess.Popen(
            pinned([*words, str(threads)], threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment(threads),
            cwd=ROOT,
        )

    def ready(self) -> None:
        """Waits until it is."""
        told = self._told()
        self.versions, self.parameters = told["versions"], told["parameters"]
        self._ahead = told["before"]

    def go_ahead(self) -> None:
        """Takes its turns ahead of the first step, once no other arm is at work."""
        self.before = [self._turn() for _ in range(self._ahead)]

    def turn(self) -> dict[str, Any]:
        """One step, with its share of what was done ahead."""
        found = self._turn()
        if self.before:
            ahead = self.before[len(self.turns)]
            found |= {name: found[name] + ahead[name] for name in ("cpu", "wall")}
        self.turns.append(found)
        return found

    def _turn(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended: `_told` says how
        return self._told()

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _told(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._log.seek(0)
            said = "".join(self._log.readlines()[-LINES:])
            raise SystemExit(
                f"{said}\n{workloads.ARMS[self.name]} ended early in {self.case.name} on "
                f"{self.case.model_name}, with {code}; above is what it said last."
            )
        return json.loads(line)
