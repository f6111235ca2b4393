"""Named random streams: every draw is a function of (seed, purpose, step)."""

import functools
import zlib
from typing import NamedTuple

import jax
import numpy as np


def stream(seed: int, purpose: str) -> jax.Array:
    """The root key of one purpose. Different purposes never share keys: the name is folded in."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()) & 0x7FFFFFFF)


def at(key: jax.Array, step: int | jax.Array) -> jax.Array:
    """The key of one step of a stream."""
    return jax.random.fold_in(key, step)


class Step(NamedTuple):
    """The keys of one step: of its collection, of the rows' orders, and of each update's loss."""

    collect: jax.Array
    order: jax.Array
    losses: tuple[jax.Array, ...]


class Steps:
    """step -> `Step`, of the streams "collect", "order" and "loss" of a seed.

    All come from one program: op by op each is a dispatch of its own, in every step.
    """

    def __init__(self, seed: int, updates: int):
        """updates: of a step."""
        self._roots = [stream(seed, purpose) for purpose in ("collect", "order", "loss")]
        self._updates = updates

    def __call__(self, step: int) -> Step:
        return _folded(self._roots, np.int32(step), self._updates)


@functools.partial(jax.jit, static_argnums=2)
def _folded(roots: list[jax.Array], step: jax.Array, updates: int) -> Step:
    collect, order, loss = (at(root, step) for root in roots)
    return Step(collect, order, tuple(at(loss, number) for number in range(updates)))


def integers(seed: int, purpose: str, *more: int) -> list[int]:
    """Seed words for NumPy's generator: `numpy.random.default_rng(integers(...))`."""
    words = [seed & 0xFFFFFFFF, zlib.crc32(purpose.encode())]
    # NumPy reads absent words as zeros: the count keeps (0,) apart from none and from (0, 0).
    return [*words, len(more), *[m & 0xFFFFFFFF for m in more]] if more else words
