"""The interface of environments: batched, on the host, token ids in and token ids out.

An environment is a dataclass in an experiment: options, and pure functions of them.

    @dataclasses.dataclass(kw_only=True)
    class Echo(env.EnvConfig):
        '''Says what was said; pays 1 for a single token.'''

        def start(self, tasks, keys):
            return [[] for _ in tasks], [0 for _ in tasks]

        def step(self, states, answers):
            paid = np.asarray([len(ids) == 1 for ids in answers], np.float32)
            return env.Step(answers, paid, paid > 0, states)

What it gives is a function of task, key and answers alone, so that a run goes on with the same
bits. Environments that speak text are in `dialogue`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from alignjax.core import shapes
from alignjax.text import chat

Task = Mapping[str, Any]  # a row's own columns, as the data give them
Ids = Sequence[int]


class Setting(NamedTuple):
    """What an environment may know of the data.

    eos: the id at which answers end; -1 where none does. speaker: the tokenizer with its layout of
    conversations; None where rows are no text.
    """

    eos: int
    speaker: chat.Speaker | None = None


class Step(NamedTuple):
    """What an environment says to N answers.

    observations: [N] lists of token ids; what it says as an episode ends is read by nobody, and is
    no part of the row. rewards: [N], reward units, NaN where a row can't be scored. done: [N] bool.
    states: [N], of the next turn.
    """

    observations: Sequence[Ids]
    rewards: np.ndarray
    done: np.ndarray
    states: Sequence[Any]


class Env(Protocol):
    """An environment at work, see `EnvConfig`."""

    def start(
        self, tasks: Sequence[Task], keys: np.ndarray
    ) -> tuple[Sequence[Ids], Sequence[Any]]: ...

    def step(self, states: Sequence[Any], answers: Sequence[Ids]) -> Step: ...


@dataclasses.dataclass(kw_only=True)
class EnvConfig:
    """Base class of environments: dataclasses with options, and what they say and pay."""

    limit: int = 4  # turns of an episode at most
    room: int = 8  # tokens of an observation at most; a row with a longer one is cut
    opening: int = 0  # tokens at most of what is said before the first answer, behind the prompt

    def validate(self) -> None:
        """Raises ValueError where an option is wrong."""
        name = type(self).__name__
        shapes.check_number(f"{name}.limit", self.limit, minimum=1)
        shapes.check_number(f"{name}.room", self.room, minimum=0)
        shapes.check_number(f"{name}.opening", self.opening, minimum=0)

    def opened(self, setting: Setting) -> Env:
        """What is played; an environment of text needs the data's tokenizer for that.

        Raises:
          ValueError: the data do not fit.
        """
        return self

    def start(self, tasks: Sequence[Task], keys: np.ndarray) -> tuple[Sequence[Ids], Sequence[Any]]:
        """(first observations as ids, states) of N episodes.

        Args:
          tasks: [N] rows of the data. keys: [N, K] uint32, for `np.random.default_rng(key)`; equal
            for samples of one prompt, so that they are compared in the same world.
        """
        raise NotImplementedError

    def step(self, states: Sequence[Any], answers: Sequence[Ids]) -> Step:
        """What N answers lead to; answers: ids as sampled, the one that ends them included."""
        raise NotImplementedError

    def new_tokens(self, answer: int) -> int:
        """Tokens behind the prompt at most, with answers of so many."""
        return self.opening + self.limit * answer + (self.limit - 1) * self.room

    def turn_width(self, turn: int, answer: int) -> int:
        """Tokens behind the prompt before turn `turn` = 0, 1, ... at most."""
        return self.opening + turn * (answer + self.room)


def start(env: Env, tasks: Sequence[Task], keys: np.ndarray) -> tuple[Sequence[Ids], Sequence[Any]]:
    """`env.start`, compared with its contract.

    Raises:
      ValueError: there is not one observation and one state a task.
    """
    observations, states = env.start(tasks, keys)
    _check(env, "start", len(tasks), {"observations": observations, "states": states})
    return observations, states


def step(env: Env, states: Sequence[Any], answers: Sequence[Ids]) -> Step:
    """`env.step`, compared with its contract.

    Raises:
      ValueError: there is not one of everything for each answer.
    """
    found = env.step(states, answers)
    _check(env, "step", len(answers), found._asdict())
    rewards, done = np.asarray(found.rewards, np.float32), np.asarray(found.done, bool)
    return found._replace(rewards=rewards, done=done)


def _check(env: Env, function: str, count: int, columns: Mapping[str, Any]) -> None:
    for name, column in columns.items():
        if len(column) != count:
            raise ValueError(
                f"an environment must return one entry a row for each of {count} rows; got "
                f"{len(column)} {name} ({type(env).__name__}.{function}). Return them in the order "
                "of the rows."
            )
