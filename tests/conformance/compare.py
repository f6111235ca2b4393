"""A recipe beside its goldens: errors of value and gradients."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import compat
from tests.conformance.golden import Golden

TOLERANCE = 1e-6  # of a value, relative to the largest entry and at least to 1
GRADIENT_TOLERANCE = 1e-5  # relative to the largest entry


class Errors(NamedTuple):
    value: float
    gradient: float  # nan where there is none

    @property
    def agrees(self) -> bool:
        return self.value <= TOLERANCE and not self.gradient > GRADIENT_TOLERANCE


def errors(goldens: Sequence[Golden]) -> Errors:
    """The largest errors over goldens of one method with the same options."""
    preset, method, options = goldens[0].preset, goldens[0].method, goldens[0].options
    recipe = compat.recipe(preset, method)

    def run(differentiated: dict[str, Any], others: dict[str, Any]) -> Any:
        out = recipe({**others, **differentiated}, **options)
        value = sum(term.value for term in out.values()) if isinstance(out, dict) else out
        return jnp.sum(value), value

    run_with_gradient = jax.jit(jax.value_and_grad(run, has_aux=True))
    value_errors, gradient_errors = [], [float("nan")]
    for golden in goldens:
        inputs = {name: jnp.asarray(x) for name, x in golden.inputs.items()}
        differentiated = {name: inputs.pop(name) for name in golden.gradients}
        if differentiated:
            (_, value), gradients = run_with_gradient(differentiated, inputs)
        else:
            (_, value), gradients = run({}, inputs), {}
        value_errors.append(relative(np.asarray(value), golden.value, floor=1.0))
        gradient_errors += [
            relative(np.asarray(gradients[name]), wanted, floor=1e-6)
            for name, wanted in golden.gradients.items()
        ]
    return Errors(max(value_errors), float(np.fmax.reduce(gradient_errors)))


def relative(ours: np.ndarray, wanted: np.ndarray, *, floor: float) -> float:
    """max |ours - wanted| over max |wanted|, or over `floor` where that is larger.

    Infinite if the shapes differ, or the places of numbers that are not finite.
    """
    if ours.shape != wanted.shape or not np.array_equal(np.isfinite(ours), np.isfinite(wanted)):
        return float("inf")
    finite = np.isfinite(wanted)
    if not finite.any():
        return 0.0
    ours, wanted = ours[finite].astype(np.float64), wanted[finite].astype(np.float64)
    return float(np.max(np.abs(ours - wanted)) / max(floor, np.max(np.abs(wanted))))
