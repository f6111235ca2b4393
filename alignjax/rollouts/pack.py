"""Ragged rows side by side: a model reads R' packed rows, a loss reads the R rows as they were.

What is packed are tokens, for the passes of a network; the numbers that come out of it, one a
token, are put back row by row. So every loss and every mean over rows stays what it is.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import struct
from alignjax.data import packing
from alignjax.parallel import axes, hosts

PARTS = 16  # packed rows are a multiple of so many parts of all rows: few programs to compile


@struct.pytree
class Layout:
    """Where each row lies: up to S rows in each of R' packed ones, all T wide.

    source [R', T]: place in the flat rows [R T] of each packed slot. segments, positions [R', T].
    member [R', S]: row number, R where there is none. start [R', S]: its first slot. place [R]:
    number of the row among the R' S members.
    """

    source: jax.Array
    segments: jax.Array
    positions: jax.Array
    member: jax.Array
    start: jax.Array
    place: jax.Array


def plan(lengths: np.ndarray, width: int, multiple: int) -> dict[str, np.ndarray]:
    """The arrays of a `Layout` by best-fit-decreasing; a function of the lengths alone.

    Args:
      lengths: [R], tokens of each row; rows of length 0 are left out.
      width: T. multiple: divides R'.
    """
    count = len(lengths)
    rows = np.flatnonzero(lengths)
    found = packing.best_fit([int(lengths[r]) for r in rows], width)
    members = [[int(rows[i]) for i in group] for group in found]
    step = -(-count // PARTS)
    step = -(-step // multiple) * multiple
    height = max(-(-len(members) // step) * step, step)
    most = max((len(group) for group in members), default=1)
    slots = 1 << (most - 1).bit_length()
    layout = {
        "source": np.zeros((height, width), np.int32),
        "segments": np.zeros((height, width), np.int32),
        "positions": np.zeros((height, width), np.int32),
        "member": np.full((height, slots), count, np.int32),
        "start": np.zeros((height, slots), np.int32),
        "place": np.zeros(count, np.int32),
    }
    for number, group in enumerate(members):
        begin = 0
        for slot, row in enumerate(group):
            own = np.arange(int(lengths[row]), dtype=np.int32)
            there = slice(begin, begin + len(own))
            layout["source"][number, there] = row * width + own
            layout["segments"][number, there] = slot + 1
            layout["positions"][number, there] = own
            layout["member"][number, slot] = row
            layout["start"][number, slot] = begin
            layout["place"][row] = number * slots + slot
            begin += len(own)
    return layout


def make_layout(lengths: jax.Array, width: int, multiple: int) -> Layout:
    """The layout on the mesh; on the host, the same on every process."""
    return Layout(**hosts.to_global(plan(np.asarray(hosts.to_host(lengths)), width, multiple)))


def packed(tokens: jax.Array, layout: Layout) -> dict[str, jax.Array]:
    """Tokens [R, T] as packed rows that a model reads."""
    own = axes.take(tokens.reshape(-1), layout.source, "batch slot")
    return {
        "tokens": jnp.where(layout.segments > 0, own, 0),
        "segments": layout.segments,
        "positions": layout.positions,
    }


def members(x: jax.Array, start: jax.Array) -> jax.Array:
    """Numbers of packed tokens [R', T] as rows [R' S, T], each from its own start on.

    What lies behind a row's own tokens is another row's: its mask leaves it out.
    """
    (height, slots), width = start.shape, x.shape[1]
    slot = start[:, :, None] + jnp.arange(width, dtype=start.dtype)
    slot = jnp.minimum(slot, width - 1).reshape(height, -1)
    rows = jnp.take_along_axis(x, slot, axis=1).reshape(height, slots, width)
    return rows.reshape(height * slots, width)  # in two steps: rows are sharded, slots are not


def in_order(tree: Any, layout: Layout) -> Any:
    """Numbers of packed tokens [R', T] as the R rows in their own order, [R, T]."""
    return jax.tree.map(
        lambda x: axes.take(members(x, layout.start), layout.place, "batch slot"), tree
    )


def grouped(columns: Mapping[str, jax.Array], layout: Layout) -> dict[str, jax.Array]:
    """Columns [R, ...] by the packed rows that hold them, [R', S, ...]; 0 where there is none."""
    height, slots = layout.member.shape

    def gather(x: jax.Array) -> jax.Array:
        rest = " slot" * (x.ndim - 1)
        flat = layout.member.reshape(-1)
        own = axes.take(x, jnp.minimum(flat, x.shape[0] - 1), f"batch{rest}")
        there = (flat < x.shape[0]).reshape(-1, *[1] * (x.ndim - 1))
        own = jnp.where(there, own, jnp.zeros_like(own))
        return own.reshape(height, slots, *x.shape[1:])

    return {name: gather(x) for name, x in columns.items()}


def ungrouped(columns: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """[R', S, ...] as rows [R' S, ...]."""
    return {name: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]) for name, x in columns.items()}
