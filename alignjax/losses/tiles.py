"""A vocabulary in tiles: how logits of a head come a few time steps at a time, on any mesh.

What reads the vocabulary (logprobs.py, top_k.py, tiled_divergence.py) is made of these: the head,
the parts of it that devices hold, and a loop over tiles of time steps. The logits of a whole
sequence never exist: each tile's are computed, reduced and dropped, and recomputed for the
gradient.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from alignjax.core import shapes, struct

# fp32 bytes of logits that one tile may hold on one device.
TILE_BYTES = 32 * 2**20


class Layout(NamedTuple):
    """Mesh axes that share the rows, the times, the width of the stored matrix, the vocabulary."""

    rows: tuple[str, ...] = ()
    times: tuple[str, ...] = ()
    width: tuple[str, ...] = ()
    vocab: tuple[str, ...] = ()

    def spread(self, x: jax.Array) -> jax.Array:
        """The matrix [D, V] with all of its width, from its parts."""
        return jax.lax.all_gather(x, self.width, axis=0, tiled=True) if self.width else x

    def gradient(self, x: jax.Array) -> jax.Array:
        """The matrix's gradient in its stored layout, from what each device's tokens give.

        libtpu 0.0.51 ends with an internal error where it may move this sum out of the loop over
        micro-batches; behind a barrier it does not try.
        """
        if self.width:
            x = jax.lax.psum_scatter(x, self.width, scatter_dimension=0, tiled=True)
        rest = tuple(a for a in (*self.rows, *self.times) if a not in self.width)
        return jax.lax.optimization_barrier(jax.lax.psum(x, rest) if rest else x)

    def sum(self, x: Any) -> Any:
        """A sum over the whole vocabulary, from its parts'."""
        return jax.lax.psum(x, self.vocab) if self.vocab else x

    @property
    def parts(self) -> int:
        """Devices that share the vocabulary."""
        return jax.lax.axis_size(self.vocab) if self.vocab else 1

    def max(self, x: jax.Array) -> jax.Array:
        return jax.lax.pmax(x, self.vocab) if self.vocab else x

    def first(self, size: int) -> Any:
        """The number of this device's first token of the vocabulary, of `size` tokens each."""
        return jax.lax.axis_index(self.vocab) * size if self.vocab else 0

    def run(self, f: Callable[..., Any], inputs: Sequence[Any], outputs: Any) -> Any:
        """`f` on every device's own part; arrays are named by the letters of their axes."""
        if self == Layout():
            return f
        axes = {"b": self.rows, "t": self.times, "d": self.width, "v": self.vocab, "h": ()}
        where = jax.tree.map(
            lambda names: PartitionSpec(*(axes[n] or None for n in names)), (inputs, outputs)
        )

        def call(*arrays: Any) -> Any:
            arrays = jax.tree.map(jax.sharding.reshard, arrays, tuple(where[0]))
            mapped = jax.shard_map(f, in_specs=tuple(where[0]), out_specs=where[1], check_vma=False)
            return mapped(*arrays)

        return call


def _names(entry: Any) -> tuple[str, ...]:
    """A PartitionSpec's entry as mesh axes."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def layout_of(hidden: jax.Array, unembedding: jax.Array) -> Layout:
    """How the mesh shares the work; nothing without a mesh of explicit axes."""
    states, matrix = (jax.typeof(x).sharding for x in (hidden, unembedding))
    if states.mesh.empty or not states.mesh.are_all_axes_explicit:
        return Layout()
    rows, times = (_names(entry) for entry in states.spec[:2])
    width, vocab = (_names(entry) for entry in matrix.spec)
    # Parts of the width can come and go only between devices that hold different tokens.
    width = tuple(a for a in width if a in (*rows, *times))
    return Layout(rows, times, width, vocab)


@struct.pytree
class Head:
    """How logits are computed from hidden states: scale * h W, softcap, then temperature."""

    scale: float = struct.static(default=1.0)
    softcap: float = struct.static(default=0.0)
    temperature: float = struct.static(default=1.0)
    tile: int = struct.static(default=0)
    layout: Layout = struct.static(default=Layout())


def make_head(
    hidden: jax.Array,
    unembedding: jax.Array,
    *,
    temperature: float = 1.0,
    softcap: float = 0.0,
    scale: float = 1.0,
    tile: int = 0,
) -> Head:
    """The head of states [B, T, D] and a matrix [D, V], laid out as they are.

    Args:
      temperature: > 0. softcap: >= 0, 0 is none. scale: > 0. tile: time steps at once, 0 chooses.

    Raises:
      ValueError: a number is out of range.
    """
    shapes.check_number("tile", tile, minimum=0)
    return Head(
        scale=float(shapes.check_number("scale", scale, above=0)),
        softcap=float(shapes.check_number("softcap", softcap, minimum=0)),
        temperature=float(shapes.check_number("temperature", temperature, above=0)),
        tile=tile or choose_tile(hidden, unembedding),
        layout=layout_of(hidden, unembedding),
    )


def choose_tile(hidden: jax.Array, unembedding: jax.Array) -> int:
    """The most time steps whose logits stay under `TILE_BYTES` on one device."""
    (rows, length), vocab = hidden.shape[:2], unembedding.shape[1]
    if not jax.typeof(hidden).sharding.mesh.empty:
        rows, length = jax.typeof(hidden).sharding.shard_shape(hidden.shape)[:2]
        vocab = jax.typeof(unembedding).sharding.shard_shape(unembedding.shape)[1]
    return int(min(max(TILE_BYTES // (4 * rows * vocab), 1), length))


def scan_time(tile: int, fn: Any, carry: Any, tree: Any) -> tuple[Any, Any]:
    """(carry, results in order) of fn(carry, tile) over tiles [B, tile, ...] of leaves [B, T, ...].

    The last tile is padded with zeros; results at the padding are cut off, and what fn adds to the
    carry there must be zero (cotangents are).
    """
    length = jax.tree.leaves(tree)[0].shape[1]
    if tile >= length:
        return fn(carry, tree)
    count = -(-length // tile)

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, count * tile - length)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(x.shape[0], count, tile, *x.shape[2:]), 1, 0)

    def join(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(x.shape[0], count * tile, *x.shape[3:])[:, :length]

    carry, tiles = jax.lax.scan(fn, carry, jax.tree.map(cut, tree))
    return carry, jax.tree.map(join, tiles)


def over_time(tile: int, fn: Any, tree: Any) -> Any:
    """fn applied tile by tile, results in order."""
    return scan_time(tile, lambda _, part: (None, fn(part)), None, tree)[1]


def logits(head: Head, hidden: jax.Array, unembedding: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(final logits, their derivative by the raw product), fp32 [B, t, V]."""
    raw = jnp.einsum("btd,dv->btv", hidden, unembedding, preferred_element_type=jnp.float32)
    slope = jnp.full((), head.scale / head.temperature, jnp.float32)
    if head.softcap:
        bent = jnp.tanh(raw * (head.scale / head.softcap))
        return bent * (head.softcap / head.temperature), slope * (1 - bent * bent)
    return raw * slope, slope


def logsumexp(head: Head, logits: jax.Array) -> jax.Array:
    """[B, t] over the whole vocabulary."""
    largest = jax.lax.stop_gradient(head.layout.max(jnp.max(logits, axis=-1)))
    total = head.layout.sum(jnp.sum(jnp.exp(logits - largest[..., None]), axis=-1))
    return largest + jnp.log(total)


def products(
    head: Head, raw: jax.Array, states: jax.Array, matrix: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(gradient of the states [B, t, D] from the whole vocabulary, of this part of the matrix).

    raw: cotangent [B, t, V] of the product of states and matrix; rounded to the dtype that the
    forward pass multiplies. Both results are fp32.
    """
    raw = raw.astype(states.dtype)
    wide = {"preferred_element_type": jnp.float32}
    by_hidden = jnp.einsum("btv,dv->btd", raw, matrix, **wide)
    by_matrix = jnp.einsum("btd,btv->dv", states, raw, **wide)
    return head.layout.sum(by_hidden), by_matrix
