"""Weighted means that stay exact under micro-batches, meshes, packing and masks."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import struct


@struct.pytree
class Mean:
    """A mean kept as its two sums, `total / weight`: means of parts are joined exactly.

    total: sum of weighted values. weight: sum of weights (tokens, pairs, rows, ...).
    """

    total: jax.Array
    weight: jax.Array

    @property
    def value(self) -> jax.Array:
        """total / weight, and 0 where nothing was counted."""
        return jnp.where(
            self.weight > 0, self.total / jnp.where(self.weight > 0, self.weight, 1), 0
        )

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(total=self.total + other.total, weight=self.weight + other.weight)


Metrics = Mapping[str, Mean]


def masked(values: Any, mask: Any) -> Mean:
    """The mean of `values` where `mask` is true, in fp32. Masked values never reach the sum."""
    keep = jnp.asarray(mask) != 0
    kept = jnp.where(keep, jnp.asarray(values, jnp.float32), 0.0)
    return Mean(total=jnp.sum(kept), weight=jnp.sum(keep.astype(jnp.float32)))


def weighted(values: Any, weight: Any) -> Mean:
    """The mean of `values` with weights >= 0, in fp32. Values of weight 0 never reach the sum."""
    weight = jnp.asarray(weight, jnp.float32)
    kept = jnp.where(weight > 0, jnp.asarray(values, jnp.float32) * weight, 0.0)
    return Mean(total=jnp.sum(kept), weight=jnp.sum(jnp.broadcast_to(weight, kept.shape)))


def of(values: Any) -> Mean:
    """The mean over all entries of `values`, in fp32."""
    values = jnp.asarray(values, jnp.float32)
    return Mean(total=jnp.sum(values), weight=jnp.full((), values.size, jnp.float32))


def single(value: Any) -> Mean:
    """A number that stands for itself: its weight is 1."""
    return Mean(total=value, weight=jnp.ones((), jnp.float32))


def add(left: Metrics, right: Metrics) -> dict[str, Mean]:
    """Means joined name by name; both sides must hold the same names."""
    return {name: left[name] + right[name] for name in left}


def floats(metrics: Metrics) -> dict[str, float]:
    """The means as Python floats: one transfer for all of them."""
    return all_floats([metrics])[0]


def all_floats(parts: Sequence[Metrics]) -> list[dict[str, float]]:
    """The same of several, in one transfer."""
    host = jax.device_get([dict(metrics) for metrics in parts])
    return [{name: _float(m) for name, m in metrics.items()} for metrics in host]


def _float(mean: Mean) -> float:
    return float(mean.total) / float(mean.weight) if mean.weight > 0 else 0.0
