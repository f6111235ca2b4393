"""Fingerprints of trees of arrays: a checksum of every leaf, and a digest of all of them."""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import trees


@jax.jit
def _read_through(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(checksum, whether all of it is finite) of a leaf, in one pass."""
    is_float = jnp.issubdtype(x.dtype, jnp.floating)
    return _sum(x), jnp.all(jnp.isfinite(x)) if is_float else jnp.ones((), jnp.bool_)


def _sum(x: jax.Array) -> jax.Array:
    width = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
    words = x if x.dtype == jnp.bool_ else jax.lax.bitcast_convert_type(x, width)
    position = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        index = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
        position = position * jnp.uint32(size) + index
    # Odd weights are invertible modulo 2^32: any single changed bit changes the sum.
    return jnp.sum(words.astype(jnp.uint32) * (2 * position + 1), dtype=jnp.uint32)


def checksums(tree: Any) -> dict[str, int]:
    """A number for every leaf that any flipped bit changes and no layout on devices does.

    One program a leaf, for CPUs hold a second copy of what a program sums up; and one after the
    other, for programs with collectives at the same time can lock each other out there.
    """
    return {name: number for name, (number, _) in read(tree).items()}


def read(tree: Any) -> dict[str, tuple[int, bool]]:
    """(checksum, whether it is finite) of every leaf."""
    found = {}
    for name, x in trees.named_leaves(tree).items():
        number, finite = _read_through(x)
        found[name] = int(number), bool(finite)
    return found


def identity(tree: Any) -> str:
    """A digest of a tree's names, shapes and values, the same on every layout."""
    return digest({"shapes": shapes(tree), "checksums": checksums(tree)})


def shapes(tree: Any) -> dict[str, str]:
    """{name of a leaf: its type and shape, "float32[2, 3]"}."""
    return {n: f"{x.dtype}{list(x.shape)}" for n, x in trees.named_leaves(tree).items()}


def digest(meta: dict[str, Any]) -> str:
    """The SHA-256 of values as JSON with sorted names."""
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
