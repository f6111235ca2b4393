"""Batches of which a share of the rows is sampled: by the policy, and the others by a teacher.

A batch of demonstrations has answers of its own; the prompt of a row is what stands before the last
of its answers. A batch of prompts has none, so that every row is sampled.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import mean
from alignjax.models import model as models
from alignjax.parallel import axes
from alignjax.rewards import learned
from alignjax.sampling import generate, plan, transforms
from alignjax.training import algorithm, program

READ = {"tokens": np.int32, "loss_mask": np.bool_, "segments": np.int32, "positions": np.int32}


class Writer(NamedTuple):
    """Who samples answers. tree: (params, frozen) -> the bound tree of its model."""

    role: str
    model: models.Model
    tree: Callable[[models.Params, models.Frozen], models.Params]


class Mix(NamedTuple):
    """How batches are mixed.

    first: samples the answers of an exact number of a batch's rows, the first round(share B).
    second: samples those of the others; None where the data have answers. width: tokens of a prompt
    at most; of a longer one the end is kept.
    """

    first: Writer
    share: float
    sampling: transforms.SamplingConfig
    eos: int | Sequence[int]
    pad: int
    width: int
    second: Writer | None = None

    def spans(self, size: int) -> list[tuple[Writer, int, int]]:
        """(writer, first row, row behind its last) of a batch of so many rows."""
        count = round(self.share * size)
        spans = [(self.first, 0, count)]
        if self.second is not None:
            spans.append((self.second, count, size))
        return [span for span in spans if span[1] < span[2]]

    def keeps_data(self, size: int) -> bool:
        """Whether some of so many rows stay as the data give them."""
        return sum(stop - start for _, start, stop in self.spans(size)) < size


def asked(batch: algorithm.Batch, width: int, pad: int) -> tuple[jax.Array, jax.Array]:
    """(prompts [B, P], their lengths [B]) of demonstrations: all before the last answer.

    An answer is a run of tokens of the loss mask. Of a prompt longer than `width` the end is kept.
    """
    tokens, mask = (axes.shard(batch[name], "batch slot") for name in ("tokens", "loss_mask"))
    slot = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None] + jnp.zeros_like(tokens)
    last = jnp.max(jnp.where(mask != 0, slot, -1), axis=1, keepdims=True)
    before = (mask == 0) & (slot < last)
    starts = jnp.max(jnp.where(before, slot, -1), axis=1) + 1
    lengths = jnp.minimum(starts, width)
    own = slot[:, :1] + jnp.arange(width, dtype=jnp.int32)[None]
    source = jnp.minimum(own + (starts - lengths)[:, None], tokens.shape[1] - 1)
    prompts = jnp.take_along_axis(tokens, source, axis=1)
    return jnp.where(own < lengths[:, None], prompts, pad), lengths


def shared(count: int) -> int:
    """Rows to sample for so many that are wanted: the next number that the devices share."""
    shards = axes.axis_size("batch")
    return -(-count // shards) * shards


def taken(x: jax.Array, rows: jax.Array) -> jax.Array:
    """Rows of an array, laid out as a batch."""
    return axes.take(x, rows, "batch" + " slot" * (x.ndim - 1))


def widened(rows: algorithm.Batch, width: int, pad: int) -> dict[str, jax.Array]:
    """Rows with padding behind them, `width` tokens each."""
    fill = {"tokens": pad}
    return {
        name: jnp.pad(
            axes.shard(rows[name], "batch slot"),
            [(0, 0), (0, width - rows[name].shape[1])],
            constant_values=fill.get(name, 0),
        )
        for name in READ
    }


def make_rows(mix: Mix) -> Callable[..., tuple[dict[str, jax.Array], algorithm.Metrics]]:
    """(params, frozen, batch, key) -> (rows to train on [B, T], metrics). On the host.

    T is the longest that a row can be: that of the data, or a prompt and an answer. An answer is a
    function of its writer, its prompt, its place among the writer's rows, and the key.
    """
    draws = {
        writer.role: generate.make_generate(writer.model, mix.sampling, eos=mix.eos, pad=mix.pad)
        for writer in (mix.first, mix.second)
        if writer is not None
    }

    @jax.jit
    def prompts_of(batch: algorithm.Batch) -> tuple[jax.Array, jax.Array]:
        if "prompts" in batch:
            return batch["prompts"], batch["lengths"]
        return asked(batch, mix.width, mix.pad)

    @jax.jit
    def pick(prompts: Any, rows: jax.Array) -> Any:
        return jax.tree.map(lambda x: taken(x, rows), prompts)

    @jax.jit
    def join(
        batch: algorithm.Batch, drawn: list[generate.Samples]
    ) -> tuple[dict[str, jax.Array], algorithm.Metrics]:
        size = len(batch["lengths" if "prompts" in batch else "tokens"])
        number, told = jnp.arange(size), dict[str, mean.Mean]()
        kept = [dict(batch)] if mix.keeps_data(size) else []
        width = max(x.shape[1] for x in [*(s.tokens for s in drawn), *(x["tokens"] for x in kept)])
        rows = widened(kept[0], width, mix.pad) if kept else None
        for (writer, start, stop), samples in zip(mix.spans(size), drawn, strict=True):
            place = jnp.clip(number - start, 0, len(samples.lengths) - 1)
            own = widened(learned.as_batch(samples), width, mix.pad)
            own = {name: taken(x, place) for name, x in own.items()}
            here = axes.shard((number >= start) & (number < stop), "batch")
            told |= _told(
                writer.role, taken(samples.mask, place), taken(samples.ended, place), here
            )
            rows = own if rows is None else {
                name: jnp.where(here[:, None], x, rows[name]) for name, x in own.items()
            }  # fmt: skip
        assert rows is not None
        return rows, told

    def rows(
        params: models.Params, frozen: models.Frozen, batch: algorithm.Batch, key: jax.Array
    ) -> tuple[dict[str, jax.Array], algorithm.Metrics]:
        prompts = prompts_of(dict(batch))
        size, drawn = len(prompts[1]), []
        for number, (writer, start, stop) in enumerate(mix.spans(size)):
            places = np.minimum(start + np.arange(shared(stop - start)), size - 1)
            given = pick(prompts, places)
            tree = writer.tree(params, frozen)
            drawn.append(draws[writer.role](tree, *given, jax.random.fold_in(key, number)))
        return join(dict(batch), drawn)

    return rows


def _told(role: str, mask: jax.Array, ended: jax.Array, here: jax.Array) -> dict[str, mean.Mean]:
    """Share of the rows that a writer samples, their length in tokens, the share that ended."""
    return {
        f"{role}_rows": mean.masked(here.astype(jnp.float32), jnp.ones_like(here)),
        f"{role}_tokens": mean.masked(jnp.sum(mask, axis=1).astype(jnp.float32), here),
        f"{role}_ended": mean.masked(ended.astype(jnp.float32), here),
    }


def make_programs(mix: Mix, length: int) -> Callable[[program.Shapes], program.Collected]:
    """The programs of `make_rows`, in shapes: what each writer samples. length: of the data."""

    def programs(shapes: program.Shapes) -> program.Collected:
        batch, width = shapes.batch, mix.width
        is_prompts = "prompts" in batch
        size = len(batch["lengths" if is_prompts else "tokens"])
        calls = []
        for writer, start, stop in mix.spans(size):
            tree = shapes.bound[writer.role]
            calls.append(
                plan.generation(
                    writer.model,
                    mix.sampling,
                    tree,
                    parts=(("parameters" if writer is mix.first else "frozen", tree),),
                    rows=shared(stop - start),
                    prompt_length=width,
                    eos=mix.eos,
                    pad=mix.pad,
                    key=shapes.key,
                    name=f"generate {writer.role}",
                    role=writer.role,
                )
            )
        wide = width + mix.sampling.max_new_tokens
        wide = max(wide, length) if mix.keeps_data(size) else wide
        rows = program.rows({name: ((size, wide), dtype) for name, dtype in READ.items()})
        return program.Collected(tuple(calls), rows)

    return programs
