"""Games: guess-a-number in bare ids."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from alignjax.core import shapes
from alignjax.envs import env
from alignjax.worlds import guess


@dataclasses.dataclass(kw_only=True)
class GuessNumber(env.EnvConfig):
    """A number from 1 to N is guessed; every wrong guess is told that it is higher, or lower.

    A right guess is paid 1, less `cost` for each guess before it; anything else nothing. An answer
    that is no number ends the game. The secret is the column `secret` of a row, or drawn by key.
    The best mean return is `worlds.guess.optimal_return`.
    """

    limit: int = 3  # guesses
    room: int = 1  # tokens of an observation: higher, or lower
    numbers: int = 7  # N, that of the data
    cost: float = 0.0  # of each guess after the first, reward units

    def validate(self) -> None:
        super().validate()
        shapes.check_number("GuessNumber.numbers", self.numbers, minimum=2)
        most = 1.0 / (self.limit - 1) if self.limit > 1 else 1.0
        shapes.check_number("GuessNumber.cost", self.cost, minimum=0, maximum=most)

    def start(
        self, tasks: Sequence[env.Task], keys: np.ndarray
    ) -> tuple[list[list[int]], list[tuple[int, int]]]:
        """States are (secret, guesses made)."""

        def secret(task: env.Task, key: np.ndarray) -> int:
            if "secret" in task:
                return int(task["secret"])
            return int(np.random.default_rng(key).integers(1, self.numbers + 1))

        states = [(secret(task, key), 0) for task, key in zip(tasks, keys, strict=True)]
        return [[] for _ in states], states

    def step(self, states: Sequence[tuple[int, int]], answers: Sequence[env.Ids]) -> env.Step:
        said: list[list[int]] = []
        paid, done, after = [], [], []
        for (secret, made), ids in zip(states, answers, strict=True):
            own = [i for i in ids if i != guess.EOS]
            number = own[0] - guess.FIRST if len(own) == 1 else 0
            legal = 1 <= number <= self.numbers
            right = legal and number == secret
            paid.append(1.0 - self.cost * made if right else 0.0)
            done.append(right or not legal or made + 1 >= self.limit)
            said.append([guess.HIGHER if number < secret else guess.LOWER])
            after.append((secret, made + 1))
        return env.Step(said, np.asarray(paid, np.float32), np.asarray(done), after)
