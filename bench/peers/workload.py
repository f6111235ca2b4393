"""The GRPO iteration that every code base runs, and the turns in which they run it.

NumPy and the standard library alone: each arm reads this file in its own environment.
"""

import json
import os
import resource
import sys
import time
from typing import Any, NamedTuple

import numpy as np

SEED = 20261120
PAD, BOS, EOS, FIRST = 0, 1, 2, 4  # token ids below FIRST never stand in a prompt
LAYERS, WIDTH, HEADS, HEAD_DIM, FF, VOCAB = 6, 320, 5, 64, 896, 8192
THETA, NORM_EPS = 1_000_000, 1e-5
BETA, GROUP = 0.04, 4
OPTIM = {"learning_rate": 1e-5, "b1": 0.9, "b2": 0.999, "eps": 1e-8, "clip_norm": 1.0}


class Case(NamedTuple):
    """prompts: of an iteration, GROUP completions each. prompt, new: tokens of them, at most.

    median: of the lognormal law (sigma 1) of the completions' lengths; 0: all have `new`.
    """

    prompts: int
    prompt: int
    new: int
    median: int = 0

    @property
    def rows(self) -> int:
        return self.prompts * GROUP

    def lengths(self) -> np.ndarray:
        """[rows] tokens of each completion, the one that ends it included."""
        if not self.median:
            return np.full(self.rows, self.new, np.int32)
        drawn = np.random.default_rng(SEED).lognormal(np.log(self.median), 1.0, self.rows)
        return np.clip(drawn.round(), 1, self.new).astype(np.int32)

    def batch(self, step: int) -> np.ndarray:
        """[prompts, prompt] ids of an iteration's prompts."""
        rng = np.random.default_rng([SEED, step])
        return rng.integers(FIRST, VOCAB, (self.prompts, self.prompt), np.int32)


CASES = {
    "ragged": Case(prompts=16, prompt=64, new=256, median=40),
    "equal": Case(prompts=4, prompt=64, new=128),
}


def word(token: int) -> str:
    return f"<{token}>"


def reward(ids: Any) -> float:
    """Of a completion's ids: the share of even ones."""
    return float(np.mean(np.asarray(ids) % 2 == 0))


class Task(NamedTuple):
    """What an arm does; micro: parts of its update whose gradients are summed."""

    case: Case
    count: int
    micro: int


def task() -> Task:
    """Of the command line: CASE ITERATIONS MICRO_BATCHES."""
    case, count, micro = sys.argv[1:]
    return Task(CASES[case], int(count), int(micro))


class Turns:
    """Iterations that begin when the runner says so: a line a turn on standard input.

    What it tells goes to the real standard output, a JSON object a line; what libraries print goes
    to standard error.
    """

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._begun: tuple[float, float] | None = None

    def begin(self) -> None:
        if not sys.stdin.readline():
            raise SystemExit(0)
        self._begun = time.process_time(), time.perf_counter()

    def end(self, **more: Any) -> None:
        assert self._begun is not None
        cpu, wall = (
            now - then
            for now, then in zip(
                (time.process_time(), time.perf_counter()), self._begun, strict=True
            )
        )
        self._tell(cpu=cpu, wall=wall, peak=peak(), **more)

    def ready(self, **versions: str) -> None:
        self._tell(versions=versions)

    def _tell(self, **what: Any) -> None:
        print(json.dumps(what), file=self._out, flush=True)


def peak() -> float:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
