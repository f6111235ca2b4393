"""A run's metrics on their way to its files."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from alignjax.core import errors, mean
from alignjax.parallel import processes
from alignjax.training import metrics, progress, speed


class RunLog:
    """Metrics of steps. Values stay on the device until a flush.

    Every process reads them, as every one must stop where they are not finite; the first one
    writes.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        name: str,
        config: Any,
        begin: int,
        rates: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        """rates: step numbers -> learning rates."""
        self._config, self._writer, self._bar, self._rates = config, None, None, rates
        if processes.is_first():
            self._writer = metrics.Writer(workdir, start=begin)
            self._bar = progress.Progress(name, config.steps, start=begin)
        self._waiting: list[tuple[int, Mapping[str, mean.Mean], dict[str, float]]] = []
        self._skipped = 0
        self._note = ""

    def add(self, step: int, means: Mapping[str, mean.Mean], numbers: dict[str, float]) -> None:
        """Queues a step's metrics, and numbers that are on the host already."""
        self._waiting.append((step, means, numbers))

    def flush(self, clock: speed.Clock) -> None:
        """Writes the queued metrics and the speed since the last flush.

        Raises:
          errors.NonFinite: too many updates in a row were skipped.
        """
        steps = [step for step, *_ in self._waiting]
        rates = self._rates(np.array(steps)) if self._rates and steps else [None] * len(steps)
        for (step, means, numbers), rate in zip(self._waiting, rates, strict=True):
            values = {**mean.floats(means), **numbers}
            if rate is not None:
                values["learning_rate"] = float(rate)
            if self._writer:
                self._writer.write(step, values)
            self._skipped = self._skipped + 1 if values["skipped"] else 0
            self._note = f"loss {values['loss']:.4f}"
            if self._skipped >= self._config.max_skipped:
                if self._writer:
                    self._writer.flush()
                raise errors.NonFinite(
                    f"{self._skipped} steps in a row had a non-finite loss or gradient, the last "
                    f"is step {step}. Parameters are those of the last good update; lower the "
                    "learning rate or inspect the data of these steps."
                )
        if self._waiting and self._bar:
            self._bar.update(self._waiting[-1][0] + 1, self._note)
        if self._waiting and self._writer:
            self._writer.write_speed(self._waiting[-1][0], clock.read())
        self._waiting.clear()
        if self._writer:
            self._writer.flush()

    def close(self, clock: speed.Clock) -> None:
        """The last flush and line."""
        self.flush(clock)
        if self._writer and self._bar:
            self._writer.close()
            self._bar.close(self._note)
