"""Checks of single values; without jax, so that processes that read data start quickly."""

import dataclasses
import difflib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def check_choice(name: str, value: str, choices: Iterable[str]) -> str:
    """`value` after checking that it is one of `choices`; the message suggests the nearest."""
    legal = list(choices)
    if value in legal:
        return value
    close = difflib.get_close_matches(str(value), legal, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{name} must be one of {', '.join(legal)}; got {value!r}.{hint}")


def check_number(
    name: str,
    value: float,
    *,
    above: float | None = None,
    minimum: float | None = None,
    below: float | None = None,
    maximum: float | None = None,
) -> float:
    """`value` after checking that it is finite and within the bounds.

    Raises:
      ValueError: not a finite number, or outside a bound.
    """
    rules: list[tuple[str, Callable[[float], bool]]] = []
    if above is not None:
        rules.append((f"> {above:g}", lambda v: v > above))
    if minimum is not None:
        rules.append((f">= {minimum:g}", lambda v: v >= minimum))
    if below is not None:
        rules.append((f"< {below:g}", lambda v: v < below))
    if maximum is not None:
        rules.append((f"<= {maximum:g}", lambda v: v <= maximum))
    wanted = " and ".join(["finite", *[text for text, _ in rules]])
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, {wanted}; got {value!r}.") from None
    if not math.isfinite(number) or not all(holds(number) for _, holds in rules):
        raise ValueError(f"{name} must be {wanted}; got {value!r}.")
    return value


def read_fields(default: Any, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of an object in JSON that replace those of a dataclass; lists become tuples.

    Raises:
      ValueError: a field that the dataclass lacks, or of another type than its default has.
    """
    known = [field.name for field in dataclasses.fields(default)]
    own: dict[str, Any] = {}
    for name, value in values.items():
        check_choice(f"a setting ({where})", name, known)
        own[name] = tuple(value) if isinstance(value, list) else value
        like = getattr(default, name)
        kinds = (int, float) if isinstance(like, float) else (type(like),)
        right = isinstance(own[name], kinds) and (
            isinstance(own[name], bool) == isinstance(like, bool)
        )
        if isinstance(like, tuple) and right:
            right = all(isinstance(word, str) for word in own[name])
        if not right:
            raise ValueError(
                f"{name} must be like {json.dumps(like)}; got {json.dumps(value):.60} ({where})."
            )
    return own
