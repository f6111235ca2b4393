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
# Where a mask tells the tokens that count, tiles are smaller, so that the last one, which they fill
# only in part, costs little: so many of them would hold all tokens, but none is below `FEWEST`.
COUNTED_TILES, FEWEST = 16, 256


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

    def most(self, x: jax.Array) -> jax.Array:
        """The largest of what all devices of the mesh's named axes have."""
        axes = tuple(dict.fromkeys((*self.rows, *self.times, *self.vocab)))
        return jax.lax.pmax(x, axes) if axes else x

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
    """(carry, results in order) of fn(carry, tile) over tiles [B, t, ...] of leaves [B, T, ...].

    Tiles are of one size, `tile` steps at most. The last one is padded with fewer zeros than there
    are tiles; results at the padding are cut off, and what fn adds to the carry there must be zero
    (cotangents are).
    """
    length = jax.tree.leaves(tree)[0].shape[1]
    if tile >= length:
        return fn(carry, tree)
    first = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), tree)
    carry, results = _scan(tile, lambda c, part: _swapped(fn, c, part), carry, first)
    return carry, jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), results)


def _swapped(fn: Any, carry: Any, part: Any) -> tuple[Any, Any]:
    carry, results = fn(carry, jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), part))
    return carry, jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), results)


def over_time(tile: int, fn: Any, tree: Any) -> Any:
    """fn applied tile by tile, results in order."""
    return scan_time(tile, lambda _, part: (None, fn(part)), None, tree)[1]


def balanced(size: int, most: int) -> tuple[int, int]:
    """(tiles, entries of each): as few tiles of at most so many entries as hold `size` of them."""
    count = -(-size // most)
    return count, -(-size // count)


def _scan(most: int, fn: Any, carry: Any, tree: Any) -> tuple[Any, Any]:
    """The same over the first axis of the leaves."""
    size = jax.tree.leaves(tree)[0].shape[0]
    count, each = balanced(size, most)

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, count * each - size)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(count, each, *x.shape[1:])

    carry, results = jax.lax.scan(fn, carry, jax.tree.map(cut, tree))
    return carry, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:size], results)


def scan_tokens(
    head: Head, fn: Any, carry: Any, tree: Any, mask: jax.Array | None = None
) -> tuple[Any, Any]:
    """(carry, results in order) of fn(carry, tile) over tiles [n, ...] of tokens [B, T, ...].

    mask: [B, T], tokens that count. The others are left out: fn sees zeros in their place, if
    anything, results there are zero, and it runs on as many tiles as the counted tokens fill. What
    fn adds to the carry for tokens that are all zeros must be zero.
    """
    rows, length = jax.tree.leaves(tree)[0].shape[:2]
    flat = jax.tree.map(lambda x: x.reshape(rows * length, *x.shape[2:]), tree)
    most = head.tile * rows
    if most >= rows * length:
        # One tile: the compiler sees the gradient's logits to be those of the forward pass.
        carry, found = fn(carry, _only(flat, mask))
        found = _only(found, mask)
    elif mask is not None:
        carry, found = _scan_counted(head, most, fn, carry, flat, mask.reshape(-1))
    else:
        carry, found = _scan(most, fn, carry, flat)
    return carry, jax.tree.map(lambda x: x.reshape(rows, length, *x.shape[1:]), found)


def _only(tree: Any, mask: jax.Array | None) -> Any:
    """Leaves [N, ...] with zeros where a mask [B, T] of N = B T entries is false."""
    if mask is None:
        return tree
    flat = mask.reshape(-1)
    return jax.tree.map(
        lambda x: jnp.where(flat.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.zeros((), x.dtype)), tree
    )


def over_tokens(head: Head, fn: Any, tree: Any, mask: jax.Array | None = None) -> Any:
    """fn applied tile by tile, results in order."""
    return scan_tokens(head, lambda _, part: (None, fn(part)), None, tree, mask)[1]


def _scan_counted(
    head: Head, most: int, fn: Any, carry: Any, tree: Any, mask: jax.Array
) -> tuple[Any, Any]:
    """`scan_tokens` over the tokens [N, ...] of a mask [N]: they come first, tile by tile."""
    size = mask.shape[0]
    few = max(-(-size // COUNTED_TILES), FEWEST)
    tiles, each = balanced(size, min(most, few))
    total = jnp.sum(mask, dtype=jnp.int32)
    order = jnp.argsort(~mask, stable=True)
    order = jnp.where(jnp.arange(size) < total, order, size)
    order = jnp.pad(order, (0, tiles * each - size), constant_values=size)
    # All devices run as many rounds: a vocabulary in parts adds up in each of them.
    rounds = head.layout.most(-(-total // each))
    shapes = jax.eval_shape(fn, carry, jax.tree.map(lambda x: x[:each], tree))[1]
    room = jax.tree.map(lambda x: jnp.zeros((tiles * each, *x.shape[1:]), x.dtype), shapes)

    def body(state: Any) -> Any:
        number, carry, room = state
        begin = number * each
        own = jax.lax.dynamic_slice_in_dim(order, begin, each)
        part = jax.tree.map(lambda x: x.at[own].get(mode="fill", fill_value=0), tree)
        carry, found = fn(carry, part)
        put = jax.lax.dynamic_update_slice_in_dim
        return number + 1, carry, jax.tree.map(lambda x, y: put(x, y, begin, 0), room, found)

    def more(state: Any) -> jax.Array:
        # The second comparison always holds; it tells plans how many rounds there are at most.
        return (state[0] < rounds) & (state[0] < tiles)

    _, carry, room = jax.lax.while_loop(more, body, (jnp.int32(0), carry, room))
    place = jnp.maximum(jnp.cumsum(mask) - 1, 0)
    return carry, _only(jax.tree.map(lambda x: x[place], room), mask)


def logits(head: Head, hidden: jax.Array, unembedding: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(final logits, their derivative by the raw product), fp32 [..., V], of states [..., D]."""
    raw = jnp.einsum("...d,dv->...v", hidden, unembedding, preferred_element_type=jnp.float32)
    slope = jnp.full((), head.scale / head.temperature, jnp.float32)
    if head.softcap:
        bent = jnp.tanh(raw * (head.scale / head.softcap))
        return bent * (head.softcap / head.temperature), slope * (1 - bent * bent)
    return raw * slope, slope


def logsumexp(head: Head, logits: jax.Array) -> jax.Array:
    """[...] over the whole vocabulary."""
    largest = jax.lax.stop_gradient(head.layout.max(jnp.max(logits, axis=-1)))
    total = head.layout.sum(jnp.sum(jnp.exp(logits - largest[..., None]), axis=-1))
    return largest + jnp.log(total)


def products(
    head: Head, raw: jax.Array, states: jax.Array, matrix: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(gradient of the states [..., D] from the whole vocabulary, of this part of the matrix).

    raw: cotangent [..., V] of the product of states and matrix; rounded to the dtype that the
    forward pass multiplies. Both results are fp32.
    """
    raw = raw.astype(states.dtype)
    wide = {"preferred_element_type": jnp.float32}
    by_hidden = jnp.einsum("...v,dv->...d", raw, matrix, **wide)
    # XLA's CPU backend takes up to twice as long where it transposes within the product.
    turned = jax.lax.optimization_barrier(states.reshape(-1, states.shape[-1]).T)
    by_matrix = jnp.matmul(turned, raw.reshape(-1, raw.shape[-1]), **wide)
    return head.layout.sum(by_hidden), by_matrix
