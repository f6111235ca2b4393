"""Ragged rows side by side: a model reads R' packed rows, a loss reads the R rows as they were.

What is packed are tokens, for the passes of a network; the numbers that come out of it, one a
token, are put back row by row. So every loss and every mean over rows stays what it is. The samples
of a prompt share it where the model can read such rows: a prompt is read once a packed row.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import struct
from alignjax.data import packing
from alignjax.models import sight as sights
from alignjax.parallel import axes, hosts

PARTS = 16  # packed rows are a multiple of so many parts of all rows: few programs to compile


@struct.pytree
class Layout:
    """Where each row lies: up to S rows in each of R' packed ones, all T wide.

    source [R', T]: place in the flat rows [R T] of each packed slot. segments, positions [R', T].
    member [R', S]: row number, R where there is none. start [R', S]: the slot of its first token,
    or where that would be, before 0 too, if its prompt is shared. place [R]: number of the row
    among the R' S members.
    """

    source: jax.Array
    segments: jax.Array
    positions: jax.Array
    member: jax.Array
    start: jax.Array
    place: jax.Array


def plan(
    lengths: np.ndarray,
    width: int,
    multiple: int,
    *,
    prompts: np.ndarray | None = None,
    group: int = 1,
) -> dict[str, np.ndarray]:
    """The arrays of a `Layout` by best-fit-decreasing; a function of the lengths alone.

    With `prompts` the rows of a group share their prompt: a packed row reads it once, as the trunk
    (`sight.BRANCHES`) of the rows' answers. Its last token, which predicts each answer's first,
    stands before each of them.

    Args:
      lengths: [R], tokens of each row; rows of length 0 are left out.
      width: T. multiple: divides R'. prompts: [R], tokens of each row's prompt. group: rows that
        begin with one prompt, side by side.
    """
    count = len(lengths)
    trunks = np.zeros(count, np.int64) if prompts is None else np.maximum(prompts - 1, 0)
    members = _members(lengths, trunks, width, group, shared=prompts is not None)
    step = -(-count // PARTS)
    step = -(-step // multiple) * multiple
    height = max(-(-len(members) // step) * step, step)
    most = max((len(row) for row in members), default=1)
    slots = 1 << (most - 1).bit_length()
    layout = {
        "source": np.zeros((height, width), np.int32),
        "segments": np.zeros((height, width), np.int32),
        "positions": np.zeros((height, width), np.int32),
        "member": np.full((height, slots), count, np.int32),
        "start": np.zeros((height, slots), np.int32),
        "place": np.zeros(count, np.int32),
    }
    for number, rows in enumerate(members):
        end = trunk = 0
        for slot, row in enumerate(rows):
            place = range(int(trunks[row]))
            segment = slot + 1
            if prompts is not None:
                is_first = slot == 0 or rows[slot - 1] // group != row // group
                trunk = trunk + sights.BRANCHES if is_first else trunk
                if is_first and place:
                    end = _put(layout, number, end, row * width, place, trunk)
                segment = trunk + slot + 1
            layout["member"][number, slot] = row
            layout["start"][number, slot] = end - len(place)
            layout["place"][row] = number * slots + slot
            place = range(len(place), int(lengths[row]))
            end = _put(layout, number, end, row * width, place, segment)
    return layout


def _members(
    lengths: np.ndarray, trunks: np.ndarray, width: int, group: int, *, shared: bool
) -> list[list[int]]:
    """The rows of each packed one."""
    rows = np.flatnonzero(lengths)
    sizes = [int(n) for n in lengths[rows]]
    if not shared:
        found = packing.best_fit(sizes, width)
    else:
        own = [int(n) for n in trunks[rows]]
        found = packing.best_fit_of_groups(sizes, own, [int(r) // group for r in rows], width)
    return [[int(rows[n]) for n in members] for members in found]


def _put(
    layout: dict[str, np.ndarray], number: int, begin: int, source: int, place: range, segment: int
) -> int:
    """Some tokens of a row, from a slot of a packed row on; the slot behind them."""
    there = slice(begin, begin + len(place))
    layout["source"][number, there] = source + np.asarray(place, np.int32)
    layout["segments"][number, there] = segment
    layout["positions"][number, there] = place
    return there.stop


def make_layout(
    lengths: jax.Array,
    width: int,
    multiple: int,
    *,
    prompts: jax.Array | None = None,
    group: int = 1,
) -> Layout:
    """The layout on the mesh, as `plan`; on the host, the same on every process."""
    shared = None if prompts is None else np.asarray(hosts.to_host(prompts))
    own = np.asarray(hosts.to_host(lengths))
    return Layout(**hosts.to_global(plan(own, width, multiple, prompts=shared, group=group)))


def packed(tokens: jax.Array, mask: jax.Array, layout: Layout) -> dict[str, jax.Array]:
    """Rows [R, T] and their loss mask as packed rows that a model reads.

    counted: [R', T] bool, the mask of their tokens.
    """
    real = layout.segments > 0
    own = axes.take(tokens.reshape(-1), layout.source, "batch slot")
    counted = axes.take(mask.reshape(-1), layout.source, "batch slot")
    return {
        "tokens": jnp.where(real, own, 0),
        "segments": layout.segments,
        "positions": layout.positions,
        "counted": real & (counted != 0),
    }


def as_batch(batch: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
    """Rows as a network scores them: the mask of packed ones is that of their tokens."""
    return {**batch, "loss_mask": batch["counted"]} if "counted" in batch else batch


def members(x: jax.Array, start: jax.Array) -> jax.Array:
    """Numbers of packed tokens [R', T] as rows [R' S, T], each from its own start on.

    What lies before and behind a row's own tokens is another row's: its mask leaves it out.
    """
    (height, slots), width = start.shape, x.shape[1]
    slot = start[:, :, None] + jnp.arange(width, dtype=start.dtype)
    slot = jnp.clip(slot, 0, width - 1).reshape(height, -1)
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
