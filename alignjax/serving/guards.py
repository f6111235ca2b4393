"""Guards: detectors with thresholds, as a server asks them; several in series."""

import collections
import math
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from alignjax.serving import detectors, guarding, thresholds
from alignjax.text import chat

Language = Callable[[detectors.Turns], str]


def unknown(turns: detectors.Turns) -> str:
    """No language: the thresholds of all together hold."""
    return thresholds.ALL


class Guard:
    """A detector behind thresholds; a `guarding.Guard`.

    It blocks where a probability is above its threshold, and where one could not be told: the
    verdict then has an error. latencies: seconds of the newest calls.
    """

    def __init__(
        self,
        detector: detectors.Detector,
        limits: thresholds.Thresholds,
        *,
        language: Language = unknown,
    ) -> None:
        """language: of a conversation, whose thresholds hold.

        Raises:
          ValueError: the thresholds are another guard's, or lack a category.
        """
        limits.check(detector.fingerprint)
        for rows in limits.by.values():
            missing = ", ".join(sorted(set(detector.categories) - rows.keys()))
            if missing:
                raise ValueError(
                    f"thresholds must be of all categories; got none of {missing} "
                    f"({detector.name}). Calibrate the guard anew."
                )
        self.detector, self.limits, self.language = detector, limits, language
        self.latencies: collections.deque[float] = collections.deque(maxlen=4096)
        self._lock = threading.Lock()

    def before(self, turns: Sequence[chat.Turn]) -> guarding.Verdict:
        """The verdict on a conversation before the model answers it."""
        return self.judge(turns)

    def window(self, turns: Sequence[chat.Turn], text_so_far: str) -> guarding.Verdict:
        """The verdict on the conversation with all of an answer's text so far."""
        return self.judge([*turns, chat.Turn(chat.ASSISTANT, text_so_far)])

    def answered(self, turns: Sequence[chat.Turn], text: str, verdict: guarding.Verdict) -> None:
        """Nothing: a guard keeps no answers."""

    def judge(self, turns: Sequence[chat.Turn]) -> guarding.Verdict:
        """The verdict on a conversation as it stands."""
        start = time.perf_counter()
        try:
            language = self.language(turns)
            (scores,) = self.detector.probabilities([turns])
        except Exception as error:  # a guard that fails has not said that a text is safe
            reason = " ".join(str(error).split()) or type(error).__name__
            return guarding.Verdict(True, {}, f"{self.detector.name}: {reason:.300}")
        finally:
            with self._lock:
                self.latencies.append(time.perf_counter() - start)
        return self.verdict(scores, language)

    def verdict(self, scores: np.ndarray, language: str) -> guarding.Verdict:
        """The verdict that probabilities [C] lead to."""
        named = dict(zip(self.detector.categories, map(float, scores), strict=True))
        limits = self.limits.of(language)
        if any(named[n] > limits[n].value for n in named):  # sure, whatever else could not be told
            return guarding.Verdict(True, named)
        lost = [name for name, value in named.items() if math.isnan(value)]
        if lost:
            error = f"{self.detector.name} could not tell {', '.join(lost)}"
            return guarding.Verdict(True, named, error)
        return guarding.Verdict(False, named)


class Series:
    """Guards one after another; a `guarding.Guard`. The first that blocks decides.

    One that fails blocks, with its error, where none blocks without one: what a server does
    about errors is no way around the others.
    """

    def __init__(self, guards: Sequence[guarding.Guard]) -> None:
        self.guards = list(guards)

    def before(self, turns: Sequence[chat.Turn]) -> guarding.Verdict:
        """The first verdict that blocks, else all of them joined."""
        return self._joined(lambda guard: guard.before(turns))

    def window(self, turns: Sequence[chat.Turn], text_so_far: str) -> guarding.Verdict:
        """The same of an answer so far."""
        return self._joined(lambda guard: guard.window(turns, text_so_far))

    def answered(self, turns: Sequence[chat.Turn], text: str, verdict: guarding.Verdict) -> None:
        """Tells every guard."""
        for guard in self.guards:
            guard.answered(turns, text, verdict)

    def _joined(self, ask: Callable[[guarding.Guard], guarding.Verdict]) -> guarding.Verdict:
        categories: dict[str, float] = {}
        error = None
        for guard in self.guards:
            verdict = ask(guard)
            for name, value in verdict.categories.items():
                # Two guards of one category: the higher probability; NaN stays NaN.
                categories[name] = float(np.maximum(categories.get(name, 0.0), value))
            if verdict.blocked and verdict.error is None:
                return guarding.Verdict(True, categories)
            error = error or verdict.error
        return guarding.Verdict(error is not None, categories, error)


def percentiles(latencies: Sequence[float]) -> tuple[float, float]:
    """(p50, p95) in seconds; NaN of none."""
    if not latencies:
        return math.nan, math.nan
    low, high = np.percentile(np.asarray(latencies), (50, 95))
    return float(low), float(high)
