"""Named random streams: every draw is a function of (seed, purpose, step)."""

import zlib

import jax


def stream(seed: int, purpose: str) -> jax.Array:
    """The root key of one purpose. Different purposes never share keys: the name is folded in."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()) & 0x7FFFFFFF)


def at(key: jax.Array, step: int | jax.Array) -> jax.Array:
    """The key of one step of a stream."""
    return jax.random.fold_in(key, step)


def integers(seed: int, purpose: str, *more: int) -> list[int]:
    """Seed words for NumPy's generator: `numpy.random.default_rng(integers(...))`."""
    words = [seed & 0xFFFFFFFF, zlib.crc32(purpose.encode())]
    # NumPy reads absent words as zeros: the count keeps (0,) apart from none and from (0, 0).
    return [*words, len(more), *[m & 0xFFFFFFFF for m in more]] if more else words
