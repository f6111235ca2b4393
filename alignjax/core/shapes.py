"""Checks of shapes and hyperparameters at trace time, in the words of the caller."""

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import values
from alignjax.core.values import check_choice as check_choice


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
    return values.check_number(
        name, value, above=above, minimum=minimum, below=below, maximum=maximum
    )
