"""What workers do with a row: a user's function, and answers compared by math-verify.

Each handler is a function of a spec that returns a function of a payload; see `worker`. Nothing
here imports JAX.
"""

import itertools
import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from alignjax.core import errors, source_file, untrusted
from alignjax.rewards import answers


def own_function(file: str, name: str) -> Callable[..., Any]:
    """The function of that name in a user's file.

    Raises:
      ValueError: the file fails, or has none.
    """
    path = pathlib.Path(file)
    try:
        with source_file.running(path, untrusted.read_bytes(path, untrusted.OPTION)) as module:
            found = vars(module).get(name)
    except Exception as error:
        raise ValueError(
            f"{file} must run as Python; got {errors.condense(error)}. Correct it."
        ) from error
    if not callable(found):
        raise ValueError(f"{file} must define the function {name}; it does not. Correct the name.")
    return found


def function(spec: Mapping[str, str]) -> Callable[[Any], Any]:
    """A user's function of one row; payload: {"text", "task"}."""
    own = own_function(spec["file"], spec["name"])

    def score(payload: Mapping[str, Any]) -> Any:
        scores = own([payload["text"]], [payload["task"]])
        if isinstance(scores, Mapping):
            return {str(part): _only(values) for part, values in scores.items()}
        return _only(scores)

    return score


def _only(scores: Any) -> float:
    if not hasattr(scores, "__len__") or len(scores) != 1:
        raise ValueError(f"it must return one score for one text; got {scores!r}"[:200])
    return float("nan") if scores[0] is None else float(scores[0])


def maths(spec: Mapping[str, Any]) -> Callable[[Any], float | None]:
    """Whether a text gives the right answer; payload: {"text", "gold"}.

    1.0 or 0.0; None where the right answer can't be read. With "text" None: 1.0 if it can.
    """
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # its timeouts: ours hold

    def read(text: str) -> list[Any]:
        # Its own timeouts are alarms, and its errors would be wrong answers.
        return math_verify.parse(text, parsing_timeout=None, raise_on_error=True)

    def last_box(text: str) -> str:
        # math-verify takes several boxes for one answer, of several parts.
        if "\\boxed" not in text:
            return text
        inside = answers.boxed(text)
        return f"$\\boxed{{{inside}}}$" if inside else ""

    def gold(text: str) -> list[Any]:
        known = any(mark in text for mark in ("$", "\\boxed", "\\(", "\\["))
        found = read(last_box(text) if known else f"${text}$") if text.strip() else []
        return found if any(not isinstance(answer, str) for answer in found) else []

    def score(payload: Mapping[str, Any]) -> float | None:
        right = gold(payload["gold"])
        if not right or payload["text"] is None:
            return float(bool(right)) if right else None
        failed = None
        for own, other in itertools.product(right, read(last_box(payload["text"]))):
            try:
                if math_verify.verify(own, other, timeout_seconds=None, raise_on_error=True):
                    return 1.0
            except Exception as error:
                failed = error
        if failed is not None:
            raise failed
        return 0.0

    return score
