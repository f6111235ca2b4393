"""Learning rates of steps, and schedules that another number of steps moves."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.training import optim

Rates = Callable[[np.ndarray], np.ndarray]  # step numbers -> learning rates
BLOCK = 1024  # steps whose learning rates are computed at once
LOOKED_AT = 257  # steps at which two schedules are compared, at most


def learning_rate(optimizer: optim.OptimConfig, steps: int, updates: int) -> Rates:
    """Step numbers -> the learning rate of each step's last update.

    steps: of the whole run. updates: of one step.
    """
    schedule = optim.make_schedule(optimizer, steps * updates)
    # One small program for all: op by op a schedule is a dozen, for every number of steps anew.
    block = jax.jit(lambda steps: jnp.broadcast_to(schedule(steps), steps.shape))
    read = functools.cache(lambda number: np.asarray(block(_updates(number, updates))))

    def rates(steps: np.ndarray) -> np.ndarray:
        return np.array([read(step // BLOCK)[step % BLOCK] for step in steps])

    return rates


def _updates(block: int, updates: int) -> np.ndarray:
    """Numbers of the last updates of the steps of a block."""
    return (np.arange(block * BLOCK, (block + 1) * BLOCK) + 1) * updates - 1


class Moved(NamedTuple):
    """A schedule that is not what it was.

    step: the next one. asked: `loop.steps` before; steps: now. at: the first step found whose rate
    differs; before, now: its learning rates.
    """

    step: int
    asked: int
    steps: int
    at: int
    before: float
    now: float

    def line(self) -> str:
        """One line on it."""
        return (
            f"loop.steps was {self.asked} and is {self.steps}, which moves the learning-rate "
            f"schedule: the rate of step {self.at} was to be {self.before:.3g} and is "
            f"{self.now:.3g}."
        )

    def refusal(self) -> ValueError:
        """The error of a run that was not told that it may."""
        return ValueError(
            f"a run must go on with the learning-rate schedule that it was begun with; got "
            f"loop.steps={self.steps} where it was {self.asked}, by which the rate of step "
            f"{self.at} would be {self.now:.3g} and not {self.before:.3g} (loop). Leave loop.steps "
            "as it was, or ask for it by --allow_moved_schedule."
        )


def moved(
    optimizer: optim.OptimConfig, updates: int, *, step: int, asked: int | None, steps: int
) -> Moved | None:
    """How the schedule of `steps` differs from that of `asked` steps from `step` on, if it does.

    Both are compared at the steps still to go, at most `LOOKED_AT` of them; beyond its end a
    schedule stays where it ended.
    """
    if asked is None or asked == steps or step >= steps:
        return None
    before, now = (learning_rate(optimizer, total, updates) for total in (asked, steps))
    some = np.unique(np.linspace(step, steps - 1, LOOKED_AT).round().astype(int))
    for at, there, here in zip(some, before(some), now(some), strict=True):
        if not math.isclose(there, here, rel_tol=1e-6):
            return Moved(step, asked, steps, int(at), float(there), float(here))
    return None
