"""A run's metrics on their way to its files."""

import contextlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from alignjax.core import errors, mean
from alignjax.parallel import processes
from alignjax.training import background, metrics, progress, speed, trackers


class RunLog:
    """Metrics of steps. Values stay on the device until a flush.

    Every process reads them, as every one must stop where they are not finite; the first one
    writes, in a thread. Used as a context: what was flushed is in the files when it ends.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        name: str,
        config: Any,
        begin: int,
        rates: Callable[[np.ndarray], np.ndarray] | None = None,
        rows_at: Callable[[int], np.ndarray] | None = None,
        log: Callable[[str], None] = lambda line: None,
        rows: int = 0,
        tracked: trackers.Tracked | None = None,
    ):
        """rates: step numbers -> learning rates. rows_at: step -> the rows of the training table
        that it reads; those of steps with skipped updates are written, and `log` told. rows: of
        that table, of which epochs are told; 0 tells none. tracked: who gets the numbers too."""
        self._rows = rows
        self._rows_at, self._log, self._name = rows_at, log, name
        self._config, self._writer, self._bar, self._rates = config, None, None, rates
        if processes.is_first():
            self._writer = metrics.Writer(workdir, start=begin, tracked=tracked)
            self._thread = background.Background("metrics")
            self._bar = progress.Progress(name, config.steps, start=begin)
        self._waiting: list[tuple[int, Mapping[str, mean.Mean], dict[str, float]]] = []
        self._skipped = 0
        self._note = ""

    def add(self, step: int, means: Mapping[str, mean.Mean], numbers: dict[str, float]) -> None:
        """Queues a step's metrics, and numbers that are on the host already."""
        self._waiting.append((step, means, numbers))

    def waiting(self, words: str) -> contextlib.AbstractContextManager[None]:
        """Inside, the bar, or a line now and then, says what is waited for."""
        return self._bar.waiting(words) if self._bar else contextlib.nullcontext()

    def flush(self, clock: speed.Clock, *, wait: bool = False) -> None:
        """Writes the queued metrics and the speed since the last flush.

        wait: until they are in the files, as before a checkpoint that goes on from them.

        Raises:
          errors.NonFinite: too many updates in a row were skipped; all metrics are in the files.
          OSError: an earlier flush could not write.
        """
        steps = [step for step, *_ in self._waiting]
        rates = self._rates(np.array(steps)) if self._rates and steps else [None] * len(steps)
        found = mean.all_floats([means for _, means, _ in self._waiting])
        rows: list[tuple[int, dict[str, float]]] = []
        skipped: list[int] = []
        for (step, _, numbers), own, rate in zip(self._waiting, found, rates, strict=True):
            values = {**own, **numbers}
            if rate is not None:
                values["learning_rate"] = float(rate)
            if self._rows:
                values["epoch"] = (step + 1) * self._config.batch_size / self._rows
            rows.append((step, values))
            self._skipped = self._skipped + 1 if values["skipped"] else 0
            skipped += [step] if values["skipped"] else []
            self._note = f"loss {values['loss']:.4f}"
            if self._skipped >= self._config.max_skipped:
                self._write(rows, {}, skipped, wait=True)
                raise errors.NonFinite(
                    f"{self._skipped} steps in a row had a non-finite loss or gradient, the last "
                    f"is step {step}. Parameters are those of the last good update; lower the "
                    f"learning rate or inspect the data of these steps{self._rows_told()}."
                )
        if self._waiting and self._bar:
            self._bar.update(self._waiting[-1][0] + 1, self._note)
        if rows or wait:
            self._write(rows, clock.read() if rows else {}, skipped, wait=wait)
        self._waiting.clear()

    def _write(
        self,
        rows: list[tuple[int, dict[str, float]]],
        rates: dict[str, float],
        skipped: list[int],
        *,
        wait: bool,
    ) -> None:
        writer, rows_at = self._writer, self._rows_at
        if skipped:
            shown = ", ".join(map(str, skipped[:8])) + (", ..." if len(skipped) > 8 else "")
            self._log(
                f"{self._name}: warning: updates were skipped for a non-finite loss or gradient "
                f"in {len(skipped)} steps: {shown}{self._rows_told()}"
            )
        if writer is None:
            return

        def write() -> None:
            for step, values in rows:
                writer.write(step, values)
            if rows_at is not None:
                for step in skipped:
                    writer.write_skipped(step, rows_at(step).tolist())
            if rows:
                writer.write_speed(rows[-1][0], rates)
            writer.flush()

        self._thread(write)
        if wait:
            self._thread.wait()

    def _rows_told(self) -> str:
        return f"; {metrics.SKIPPED} names their rows" if self._rows_at else ""

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if self._writer is None:
            return
        if error is None:
            self._thread.wait()
            return
        with contextlib.suppress(Exception):  # the error that ends the run is told
            self._thread.close()

    def close(self, clock: speed.Clock) -> None:
        """The last flush and line."""
        self.flush(clock, wait=True)
        if self._writer and self._bar:
            self._thread.close()
            self._writer.close()
            self._bar.close(self._note)
