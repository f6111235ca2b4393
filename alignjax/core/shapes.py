"""Checks of shapes and hyperparameters at trace time, in the words of the caller."""

import difflib
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp


def check(name: str, x: Any, dims: str, sizes: dict[str, int] | None = None) -> dict[str, int]:
    """Sizes by axis letter after checking that `x` has the axes of `dims`, e.g. "B T".

    Args:
      name: the argument's name, for the message.
      x: an array.
      dims: axis letters separated by blanks; a number stands for itself, a leading "..." for any
        axes.
      sizes: letters that are known already; they must agree.

    Raises:
      ValueError: rank or a size differs.
    """
    known = dict(sizes or {})
    shape = jnp.shape(x)
    letters = dims.split()
    if letters and letters[0] == "...":
        letters = letters[1:]
        if len(shape) < len(letters):
            raise ValueError(f"{name} must have shape [... {' '.join(letters)}]; got {shape}.")
        shape = shape[len(shape) - len(letters) :]
    if len(shape) != len(letters):
        raise ValueError(f"{name} must have shape [{dims}]; got {shape}.")
    for letter, size in zip(letters, shape, strict=True):
        want = int(letter) if letter.isdigit() else known.setdefault(letter, size)
        if size != want:
            raise ValueError(
                f"{name} must have shape [{dims}] with {letter} = {want}; got {shape}."
            )
    return known


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

    Tracers pass: a traced coefficient (an adaptive one) has no value at trace time.

    Raises:
      ValueError: not a finite number, or outside a bound.
    """
    if isinstance(value, jax.core.Tracer):
        return value
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


def check_choice(name: str, value: str, choices: Iterable[str]) -> str:
    """`value` after checking that it is one of `choices`; the message suggests the nearest."""
    legal = list(choices)
    if value in legal:
        return value
    close = difflib.get_close_matches(str(value), legal, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{name} must be one of {', '.join(legal)}; got {value!r}.{hint}")
