"""A rule that is a function in a file of the user's."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from alignjax.core import shapes
from alignjax.rewards import handlers, pool, rules


@dataclasses.dataclass(kw_only=True)
class Function(rules.PooledConfig):
    """A function (texts, tasks) -> scores in a file, "FILE.py:name".

    texts: completions, without prompts. tasks: the row of each, a mapping of its columns. scores:
    a number for each text, nan or None where it can't be scored; or several such by name, whose sum
    is the score. It must score every row by itself, and the same row the same way.

    isolated: it gets one row at a time in a worker process, where it may hang or crash; an error or
    a timeout is then a failure of that row alone. Else it gets all rows in the trainer's process.
    """

    path: str = ""  # FILE.py:name
    columns: tuple[str, ...] = ()  # columns of a row that it reads, so that the data are checked
    isolated: bool = False  # run it in worker processes
    timeout_s: float = 10.0  # wall-clock seconds for a row, where isolated

    def validate(self) -> None:
        super().validate()
        shapes.check_number("Function.timeout_s", self.timeout_s, above=0)
        load(self.path)

    def needs(self) -> tuple[str, ...]:
        return self.columns

    def is_pooled(self) -> bool:
        return self.isolated

    def request(self, text: str, task: rules.Task) -> pool.Request:
        file, _, name = self.path.rpartition(":")
        spec = {"file": str(pathlib.Path(file).absolute()), "name": name}
        payload = {"text": text, "task": dict(task)}
        return pool.Request("alignjax.rewards.handlers:function", spec, payload, self.timeout_s)

    def value(self, answer: Any) -> float | Mapping[str, float]:
        if isinstance(answer, Mapping):
            return {name: float(score) for name, score in answer.items()}
        return float(answer)

    def score(self, texts: Sequence[str], tasks: Sequence[rules.Task]) -> rules.Scores:
        scores = load(self.path)(list(texts), list(tasks))
        if isinstance(scores, Mapping):
            return {str(name): np.asarray(part) for name, part in scores.items()}
        return np.asarray(scores)


def load(path: str) -> Callable[[Sequence[str], Sequence[rules.Task]], Any]:
    """The function "FILE.py:name".

    Raises:
      ValueError: there is no such file or function, or the file fails.
    """
    file, colon, name = path.rpartition(":")
    if not colon or not file.endswith(".py") or not name.isidentifier():
        raise ValueError(
            f"Function.path must be FILE.py:name; got {path!r}. Name a file and a function in it."
        )
    if not pathlib.Path(file).is_file():
        raise ValueError(
            f"Function.path must name a file; got nothing at {file}. Paths count from where the "
            "command runs."
        )
    return _loaded(str(pathlib.Path(file).absolute()), name)


@functools.cache
def _loaded(file: str, name: str) -> Callable[[Sequence[str], Sequence[rules.Task]], Any]:
    return handlers.own_function(file, name)
