"""A call of the chunked sampler: its sizes, and its arguments between host and mesh."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from alignjax.models.adapters import many
from alignjax.parallel import axes, hosts
from alignjax.sampling import ragged, schedule, table, transforms

STOCKS = 4  # what is read ahead of free slots is a quarter of the prompts that fill all


class Sizes(NamedTuple):
    """Of a call. rows, slots: of all shards. prompt: tokens of a prompt at most. stock: prompts of
    a shard that are read at once where rows wait for slots, else 0."""

    rows: int
    slots: int
    prompt: int
    shards: int
    stock: int
    rungs: schedule.Rungs

    @property
    def programs(self) -> int:
        """How many programs the first call of these sizes compiles; later ones compile none.

        First tokens take one, or three where rows wait (an empty cache, a stock of prompts, rows of
        it in slots); one joins the result; the others decode and move rows. There is one more where
        decoding reads weights otherwise than they lie: gathered, or in another precision.
        """
        return (3 if self.stock else 1) + 1 + self.rungs.programs


def sizes(
    config: transforms.SamplingConfig, rows: int, prompt: int, *, group: int = 1, shards: int = 1
) -> Sizes:
    """The sizes of a call for `rows` completions, `group` of a prompt.

    prompt: tokens of a prompt at most. shards: of the mesh's batch axes.

    Raises:
      ValueError: the shards do not divide prompts or slots.
    """
    slots = min(config.slots or rows, rows)
    for name, count in (("prompts", rows // group), ("sampling.slots", slots)):
        if count % shards:
            raise ValueError(
                f"{name} must be a multiple of the mesh's batch axes ({shards}); got {count} "
                "(sampling). Change it, or the mesh."
            )
    own, held = slots // shards, 0
    if slots < rows:
        held = min(-(-own // (STOCKS * group)), rows // group // shards)
    rungs = schedule.rungs(slots, shards, prompt, config.max_new_tokens, config.chunk, config.rungs)
    return Sizes(rows, slots, prompt, shards, held, rungs)


class Call(NamedTuple):
    """A call's arguments. prompts [P, W] and lengths [P]: on the host. book: what rows have.
    adapters: [R] the number of each row's adapter, None where rows do not choose."""

    sampler: ragged.Sampler
    size: Sizes
    params: Any
    key: jax.Array
    prompts: Any
    lengths: Any
    book: table.Table
    adapters: np.ndarray | None = None

    def weights(self, params: Any, rows: np.ndarray) -> Any:
        """The parameters for these rows; what stands for a free slot means nothing."""
        if self.adapters is None:
            return params
        return many.with_rows(params, whole(jnp.asarray(self.adapters[rows.reshape(-1)])))

    def columns(self, slots: np.ndarray) -> ragged.Columns:
        """Of the rows in slots [D, n], on the mesh."""
        return placed(self.book.columns(slots))

    def pending(self, slots: np.ndarray) -> ragged.Pending:
        """The last tokens of the rows in slots [D, n], on the mesh."""
        return placed(self.book.pending(slots))

    def read(self, prompts: np.ndarray) -> tuple[Any, jax.Array, jax.Array]:
        """(parameters for them, prompts by their numbers [D, p], their lengths), on the mesh."""
        at = prompts.reshape(-1)
        params = self.weights(self.params, at * self.sampler.group)
        return params, *placed((self.prompts[at], self.lengths[at]))

    def filled(self, slots: np.ndarray, fill: schedule.Fill) -> ragged.Filled:
        """How rows of a stock go to slots [D, n], on the mesh."""
        source = np.zeros_like(fill.source)
        for own, to, place, count in zip(source, fill.to, fill.source, fill.pairs, strict=True):
            own[to[:count]] = place[:count]
        arrays = (fill.to, fill.source, source, fill.pairs)
        to, place, source, count = (x.reshape(-1).astype(np.int32) for x in arrays)
        lengths: Any = self.book.lengths[slots.reshape(-1)]
        filled: Any = {"to": to, "place": place, "count": count, "source": source}
        return placed(ragged.Filled(**filled, lengths=lengths))


def placed(tree: Any) -> Any:
    """Host arrays of one entry a row, or a shard, on the mesh; without one as they are."""
    if not axes.has_mesh():
        return tree
    return jax.tree.map(lambda x: hosts.to_global({"": x})[""], tree)


def whole(x: jax.Array) -> jax.Array:
    """An array whole on every device."""
    if not axes.has_mesh():
        return x
    return jax.device_put(x, NamedSharding(jax.sharding.get_mesh(), PartitionSpec()))


def on_host(tree: Any) -> Any:
    """The whole arrays of a tree in NumPy, on every host."""
    leaves, structure = jax.tree.flatten(tree)
    there = [i for i, x in enumerate(leaves) if isinstance(x, jax.Array)]
    for i, x in zip(there, hosts.to_host([leaves[i] for i in there]), strict=True):
        leaves[i] = x
    return jax.tree.unflatten(structure, [np.asarray(x) for x in leaves])
