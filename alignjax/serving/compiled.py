"""Every program of an engine, compiled before the first request: later none is."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from alignjax.serving import steps


class Programs(NamedTuple):
    """The functions of steps.py for an engine's sizes.

    read_piece: by the length of a piece. put: by the slots of a prompt. draw: by rows. step: by
    slots that are read.
    """

    empty: Any
    staging: Any
    reset: Any
    read_piece: Mapping[int, Any]
    put: Mapping[int, Any]
    draw: Mapping[int, Any]
    step: Mapping[int, Any]


def columns(rows: int) -> steps.Columns:
    """Blank columns on the host: greedy rows of the first adapter."""
    names = {"rows": 0, "seed": 0, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "adapter": 0}
    fields: dict[str, Any] = {
        name: np.full(rows, value, np.float32 if isinstance(value, float) else np.int32)
        for name, value in names.items()
    }
    return steps.Columns(**fields)


def wanted(kind: int, top: bool) -> steps.Wanted:
    """On the host."""
    fields: dict[str, Any] = {"kind": np.int32(kind), "top": np.bool_(top)}
    return steps.Wanted(**fields)


def pending(rows: int) -> steps.Pending:
    """Of free slots, on the host."""
    blank = np.zeros(rows, np.int32)
    fields: dict[str, Any] = {
        "token": blank,
        "position": blank.copy(),
        "live": np.zeros(rows, bool),
    }
    return steps.Pending(**fields)


def compiled(shape: steps.Shape, params: Any) -> Programs:
    """Every program for these sizes and parameters."""
    empty = functools.partial(steps.empty, shape, shape.slots)
    staging = functools.partial(steps.empty, shape, 1)
    cache, one = jax.eval_shape(empty), jax.eval_shape(staging)
    slot = np.zeros(1, np.int32)

    def piece(length: int) -> Any:
        tokens = np.zeros((1, length), np.int32)
        numbers = (np.int32(0), np.int32(0), slot, np.bool_(False))
        run = functools.partial(steps.read_piece, shape)
        return lowered(run, params, one, tokens, tokens, *numbers, give=(1,))

    def step(read: int) -> Any:
        run = functools.partial(steps.step, shape, read=read)
        rows = pending(shape.slots), np.zeros(shape.slots, np.int32)
        return lowered(run, params, cache, *rows, give=(1,))

    def draw(rows: int) -> Any:
        logits = jax.ShapeDtypeStruct((rows, shape.model.vocab_size), np.float32)
        position = np.zeros(rows, np.int32)
        return lowered(steps.draw, logits, position, columns(rows), wanted(0, False))

    def put(slots: int) -> Any:
        run = functools.partial(steps.put, slots=slots)
        return lowered(run, cache, one, slot, give=(0,))

    return Programs(
        empty=lowered(empty),
        staging=lowered(staging),
        reset=lowered(steps.reset, one, give=(0,)),
        read_piece={length: piece(length) for length in shape.buckets},
        put={slots: put(slots) for slots in steps.sizes(shape.buckets[0], shape.context)},
        draw={rows: draw(rows) for rows in sorted({1, shape.slots})},
        step={read: step(read) for read in shape.reads},
    )


def lowered(function: Any, *arguments: Any, give: tuple[int, ...] = ()) -> Any:
    """The function compiled for arguments like these; `give`: those that it may write over."""
    return jax.jit(function, donate_argnums=give).lower(*arguments).compile()
