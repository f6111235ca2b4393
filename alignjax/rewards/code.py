"""Programs judged by tests, in processes with limits."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from alignjax.core import shapes
from alignjax.rewards import answers, pool, programs, rules

HANDLER = "alignjax.rewards.programs:code"
_BLOCK = re.compile(
    r"^```[ \t]*(?:python3?|py)?[ \t\r]*\n(.*?)^```", re.DOTALL | re.MULTILINE | re.I
)
# A program that passes needs its standard library: an interpreter that the job's user can't read
# would else make every answer wrong.
_EXAMPLE = (
    "import collections, decimal, functools, heapq, itertools, json, math, random, re, string\n"
    "def double(x):\n    return {}\n"
)


@dataclasses.dataclass(kw_only=True)
class Code(rules.PooledConfig):
    """1 if the text's program passes all tests of its row; else 0. Or the share that it passes.

    The program is the text's last block ```python ... ```; a text without one scores 0. The row's
    tests are Python sources (a text or a list of them, run behind the program: "assert f(2) == 4"),
    or pairs of what the program reads and must print ([{"input": .., "output": ..}, ..], or
    {"inputs": [..], "outputs": [..]}; blanks at the ends of lines don't count).

    A program that fails, runs out of CPU time or memory, or ends the process, is wrong: 0. One that
    is stopped by anything else is a failure, NaN and counted: by the clock, idle after twice its
    timeout and a second, or still at work after ten times; by a kill from outside.

    It runs what a model wrote, in processes with limits and, under root, as a user that can change
    no files: that bounds accidents, it is no wall against an attacker, and programs can reach the
    network. So nothing runs without --allow_code.

    Reference: Hendrycks et al. (2021, APPS), arXiv 2105.09938; Chen et al. (2021, HumanEval),
    arXiv 2107.03374; Austin et al. (2021, MBPP), arXiv 2108.07732.
    """

    tests: str = "tests"  # column with the tests
    timeout_s: float = 4.0  # seconds of CPU time for a run, rounded up
    memory_mib: int = 1024  # address space of a program, MiB
    share: bool = False  # the share of tests passed, not whether all are

    def validate(self) -> None:
        super().validate()
        shapes.check_number("Code.timeout_s", self.timeout_s, above=0)
        shapes.check_number("Code.memory_mib", self.memory_mib, minimum=128)

    def needs(self) -> tuple[str, ...]:
        return (self.tests,)

    def check_answers(self, tasks: Sequence[rules.Task]) -> np.ndarray:
        return np.asarray([self._tests(task) is None for task in tasks], bool)

    def examples(self) -> Sequence[tuple[str, rules.Task, float]]:
        texts = ["```python\n" + _EXAMPLE.format(body) + "```\n" for body in ("2 * x", "x")]
        task = {self.tests: ["assert double(3) == 6", "assert double(0) == 0"]}
        return [(texts[0], task, 1.0), (texts[1], task, 0.5 if self.share else 0.0)]

    def _tests(self, task: rules.Task) -> dict[str, Any] | None:
        """A row's tests as the worker reads them; None where they are none."""
        given = answers.column(task, self.tests)
        if isinstance(given, str):
            given = [given]
        if isinstance(given, dict) and {"inputs", "outputs"} <= set(given):
            inputs, outputs = given["inputs"], given["outputs"]
            if len(inputs) != len(outputs):
                return None
            given = [{"input": a, "output": b} for a, b in zip(inputs, outputs, strict=True)]
        if not isinstance(given, list | tuple) or not given:
            return None
        if all(isinstance(test, str) and test.strip() for test in given):
            return {"tests": list(given)}
        pairs = [
            (test["input"], test["output"])
            for test in given
            if isinstance(test, dict) and {"input", "output"} <= set(test)
        ]
        texts = all(isinstance(part, str) for pair in pairs for part in pair)
        return {"pairs": pairs} if texts and len(pairs) == len(given) else None

    def request(self, text: str, task: rules.Task) -> pool.Request | float:
        tests, blocks = self._tests(task), _BLOCK.findall(text)
        if tests is None:
            return float("nan")
        if not blocks:
            return 0.0
        payload = {
            "program": blocks[-1], "seconds": self.timeout_s, "memory_mib": self.memory_mib,
            "all": not self.share, **tests,
        }  # fmt: skip
        runs = len(tests.get("pairs", "1"))
        # Each run ends in time by itself; the pool's deadline is for the worker that sees to it.
        seconds = runs * programs.patience(self.timeout_s) + 1
        return pool.Request(HANDLER, {}, payload, seconds)

    def value(self, answer: Any) -> float:
        return float(answer) if self.share else float(answer == 1)
