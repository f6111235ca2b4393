"""Sampling in chunks: rows that have ended leave, others take their places, and what is left is
decoded by smaller programs.

The host decides between chunks, of lengths alone (schedule.py); the programs are in ragged.py.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from alignjax.models import cache_rows
from alignjax.models import model as models
from alignjax.models.adapters import many
from alignjax.parallel import axes
from alignjax.sampling import calls, programs, ragged, schedule, table, transforms


def check(model: models.Model, config: transforms.SamplingConfig, text: table.Text | None) -> None:
    """Refuses what the chunked sampler can't do.

    Raises:
      ValueError: there are texts that end rows and nothing that makes text of tokens, or the model
        has a cache whose rows can't be told apart.
    """
    if config.stop and text is None:
        raise ValueError(
            f"sampling.stop must be empty where tokens have no text; got {config.stop} (sampling). "
            "Give make_generate the text of tokens, or end rows by ids."
        )
    cache = jax.eval_shape(lambda: model.cache(axes.axis_size("batch"), 1))
    if (config.rungs > 1 or config.slots) and not cache_rows.is_ours(cache):
        raise ValueError(
            "sampling.rungs must be 1 and sampling.slots 0 for a Flax model with a cache of its "
            f"own; got {config.rungs} and {config.slots} (sampling). Leave out make_cache, or "
            "these."
        )


def make_completions(
    sampler: ragged.Sampler, text: table.Text | None
) -> Callable[..., dict[str, jax.Array]]:
    """(params, prompts, lengths, key, *, rows, options) -> columns of rows, on the mesh.

    Columns: tokens and logprobs [B, N], count and ended [B].
    """
    config, known = sampler.config, {}

    def run(
        params: Any,
        prompts: jax.Array,
        lengths: jax.Array,
        key: jax.Array,
        *,
        rows: jax.Array | None = None,
        options: transforms.RowOptions | None = None,
    ) -> dict[str, jax.Array]:
        group, own = sampler.group, options or transforms.NO_OPTIONS
        total, width = len(lengths) * group, prompts.shape[1]
        size = calls.sizes(config, total, width, group=group, shards=axes.axis_size("batch"))
        prompts, lengths, rows, own = calls.on_host((prompts, lengths, rows, own))
        numbers = np.arange(total) if rows is None else np.asarray(rows)
        book = table.Table(
            np.repeat(lengths, group).astype(np.int32),
            numbers.astype(np.int32),
            own,
            config.max_new_tokens,
            sampler.pad,
        )
        key, ids = calls.whole(key), calls.on_host(many.rows_of(params))
        call = calls.Call(
            sampler=sampler,
            size=size,
            params=params,
            key=key,
            prompts=prompts.astype(np.int32),
            lengths=lengths.astype(np.int32),
            book=book,
            adapters=None if ids is None else np.repeat(ids, total // len(ids)),
        )
        kind = (size, _kind((params, key, own)), jax.sharding.get_mesh())
        if kind not in known:
            known[kind] = programs.compiled(call)
        _Loop(call, known[kind], text).run()
        return calls.placed(book.arrays())

    return run


def _kind(tree: Any) -> Any:
    """What arguments must have in common for one compilation."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(jax.typeof(x) for x in leaves)


class _Loop:
    """The chunks of one call, which fill its book."""

    def __init__(self, call: calls.Call, own: programs.Programs, text: table.Text | None):
        size = call.size
        self._call, self._programs, self._text = call, own, text
        self._params = own.prepare(call.params)
        self._cache: Any = None
        self._stock: Any = None
        self._steps = 0
        # What the last chunk left on the devices of its slots; None once the host knows better.
        self._left: Any = None
        if size.stock:
            self._slots = np.full((size.shards, size.rungs.rows[0]), schedule.FREE)
            group = call.sampler.group
            self._waiting = schedule.queue(size.rows, size.shards, group, size.stock)
        else:
            self._slots = schedule.start(size.rows, size.shards)
            self._waiting = schedule.queue(0, size.shards, 1, 0)

    def run(self) -> None:
        """Until every row has ended."""
        self._begin()
        while True:
            self._slots = schedule.released(self._slots, self._call.book.live)
            self._fill()
            if (self._slots == schedule.FREE).all():
                return
            if not self._waiting.waits.any():
                self._compact()
            self._decode()

    def _begin(self) -> None:
        """An empty cache; or that of all rows, where none waits, and their first tokens."""
        call = self._call
        if call.size.stock:
            self._cache = self._programs.empty()
            return
        read = call.read(np.arange(len(call.lengths)))
        columns = call.columns(self._slots)
        self._cache, drawn = self._programs.begin(*read, columns, call.key)
        self._take(drawn)

    def _fill(self) -> None:
        """Rows that wait take the free slots. The first token may end them: then others do."""
        call = self._call
        while (self._slots == schedule.FREE).any() and self._waiting.waits.any():
            if schedule.needs_stock(self._slots, self._waiting):
                prompts, self._waiting = schedule.next_stock(self._waiting)
                self._stock = self._programs.stock(*call.read(prompts))
            free = self._slots == schedule.FREE
            self._slots, fill, self._waiting = schedule.fill(self._slots, self._waiting)
            if not fill.pairs.any():
                return  # what waits is of shards without a free slot
            filled = call.filled(self._slots, fill)
            columns = call.columns(self._slots)
            self._cache, drawn = self._programs.insert(
                self._cache, self._stock, filled, columns, call.key
            )
            self._left = None
            self._take(drawn, free & (self._slots != schedule.FREE))
            self._slots = schedule.released(self._slots, call.book.live)

    def _compact(self) -> None:
        """Fewer slots, by halves, where the rows fit in."""
        while (kept := schedule.compact(self._slots, self._call.size.rungs.rows)) is not None:
            own = calls.placed(kept.reshape(-1).astype(np.int32))
            self._cache = self._programs.take[self._slots.shape[1]](self._cache, own)
            self._slots = np.take_along_axis(self._slots, kept, axis=1)
            self._left = None

    def _decode(self) -> None:
        """A chunk of steps."""
        call, size = self._call, self._call.size
        if self._left is None:
            weights = call.weights(self._params, self._slots)
            self._left = weights, call.columns(self._slots), call.pending(self._slots)
        weights, columns, pending = self._left
        written = size.prompt + self._steps
        if size.stock:
            held = self._slots[self._slots != schedule.FREE]
            written = int(call.book.position[held].max())
        read = schedule.read_length(size.rungs.lengths, written, call.sampler.config.chunk)
        run = self._programs.decode[self._slots.shape[1], read]
        self._cache, pending, drawn = run(weights, self._cache, pending, columns, call.key)
        self._left = weights, columns, pending
        self._steps += self._take(drawn)

    def _take(self, drawn: Any, where: np.ndarray | None = None) -> int:
        """Enters what was drawn, up to the texts that end rows; returns how many steps it took."""
        book, drawn = self._call.book, calls.on_host(drawn)
        before, stop = book.count.copy(), self._call.sampler.config.stop
        rows = book.add(self._slots, drawn, where)
        if self._text is not None and stop and book.cut(rows, before, stop, self._text):
            self._left = None
        return int(drawn.count.max())
