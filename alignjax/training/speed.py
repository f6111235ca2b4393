"""How fast a run is: step time, tokens a second, share of the machine's peak, and a profile."""

import pathlib
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from alignjax.core import trees
from alignjax.parallel import peaks
from alignjax.training import algorithm


class Window(NamedTuple):
    """Steps that the profiler traces: `steps` of them from number `start` on."""

    start: int
    steps: int


def parse_window(text: str) -> Window | None:
    """The window of "START:STEPS"; None of "".

    Raises:
      ValueError: it is not two whole numbers.
    """
    if not text:
        return None
    start, colon, steps = text.partition(":")
    if not colon or not start.isdigit() or not steps.isdigit() or int(steps) < 1:
        raise ValueError(
            f"--profile must be START:STEPS, two whole numbers, STEPS at least 1; got {text!r}."
        )
    return Window(int(start), int(steps))


def check_window(window: Window | None, steps: int) -> None:
    """Refuses a window that a run of so many steps never reaches the end of.

    Raises:
      ValueError: naming both.
    """
    if window is not None and window.start + window.steps > steps:
        raise ValueError(
            f"--profile must lie within the run's steps 0..{steps - 1}; got {window.steps} from "
            f"step {window.start} on. Trace earlier steps, or raise loop.steps."
        )


class Clock:
    """The wall clock of a run's steps, and its profiler.

    Tokens are the real ones of the batches that the data give (segments, or prompts' lengths).
    MFU counts 2 FLOPs a trained parameter and token of each pass that the algorithm names, 6 of
    passes with a gradient, without attention and generation, over the peak of all devices.
    """

    def __init__(
        self,
        method: algorithm.Algorithm,
        params: Any,
        profile: Window | None,
        workdir: pathlib.Path,
    ):
        self._begin, self._steps, self._tokens = time.monotonic(), 0, 0
        self._profile, self._folder, self._tracing = profile, workdir / "profile", False
        trained = trees.size(params)
        factors = sum(6 if pass_.trained else 2 for pass_ in method.passes)
        self._flops = method.plan.epochs * factors * trained
        self._peak = peaks.here()

    def counting(
        self, batch_at: Callable[[int], Mapping[str, np.ndarray]]
    ) -> Callable[[int], Mapping[str, np.ndarray]]:
        """The same batches, their tokens counted as they pass."""

        def count(step: int) -> Mapping[str, np.ndarray]:
            if self._profile is not None and step == self._profile.start:
                jax.profiler.start_trace(str(self._folder))
                self._tracing = True
            batch = batch_at(step)
            self._tokens += tokens_of(batch)
            return batch

        return count

    def step(self, done: int) -> None:
        """Counts a step; ends the profile after its last one."""
        self._steps += 1
        window = self._profile
        if self._tracing and window is not None and done >= window.start + window.steps:
            self._stop()

    def _stop(self) -> None:
        jax.effects_barrier()
        jax.profiler.stop_trace()
        self._tracing = False

    def read(self) -> dict[str, float]:
        """Rates since the last reading."""
        now = time.monotonic()
        seconds, steps, tokens = now - self._begin, self._steps, self._tokens
        self._begin, self._steps, self._tokens = now, 0, 0
        if not steps or seconds <= 0:
            return {}
        rates = {"step_seconds": seconds / steps, "tokens_per_second": tokens / seconds}
        if self._peak and self._flops:
            rates["mfu"] = self._flops * tokens / seconds / self._peak
        return rates | memory()

    def __enter__(self) -> "Clock":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._tracing:
            self._stop()


def memory() -> dict[str, float]:
    """GiB at most so far: of this process on its host, and of the fullest of its own devices where
    these say (CPUs do not)."""
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    found = {"host_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks_of = [own["peak_bytes_in_use"] for own in stats if "peak_bytes_in_use" in own]
    if peaks_of:
        found["device_gib"] = max(peaks_of) / 2**30
    return found


def tokens_of(batch: Mapping[str, np.ndarray]) -> int:
    """Real tokens of a host batch, of all processes."""
    if "segments" in batch:
        own = int(np.count_nonzero(batch["segments"]))
    elif "lengths" in batch:
        own = int(np.sum(batch["lengths"]))
    else:
        return 0
    return own * jax.process_count() if jax.process_count() > 1 else own
