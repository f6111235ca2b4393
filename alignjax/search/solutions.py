"""Solutions: completions of many prompts, several of each, on the host."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from alignjax.core import keys
from alignjax.data import pipeline, step_ends
from alignjax.models import model as models
from alignjax.parallel import hosts
from alignjax.sampling import draws, generate, transforms


class Rows(NamedTuple):
    """Prompts with completions, each row contiguous from the left.

    tokens: [B, T]. prompt_lengths, lengths: [B], of the prompt, and with the completion. ended:
    [B] bool, whether the token that ends an answer was sampled.
    """

    tokens: np.ndarray
    prompt_lengths: np.ndarray
    lengths: np.ndarray
    ended: np.ndarray

    @property
    def sampled(self) -> np.ndarray:
        """[B, T] bool: the completions, with the token that ended them."""
        slot = np.arange(self.tokens.shape[1])
        return (slot >= self.prompt_lengths[:, None]) & (slot < self.lengths[:, None])

    def completion(self, row: int) -> np.ndarray:
        """The ids of a completion without the token that ended it."""
        end = int(self.lengths[row]) - int(self.ended[row])
        return self.tokens[row, int(self.prompt_lengths[row]) : end]

    def take(self, rows: Any) -> "Rows":
        """These rows."""
        return Rows(*(x[rows] for x in self))


# (prompts [B, W], lengths [B], round=0) -> Rows of B: a pure function of its arguments.
Draw = Callable[..., Rows]


def make_draw(
    model: models.Model,
    params: Any,
    config: transforms.SamplingConfig,
    *,
    eos: int | Sequence[int],
    pad: int,
    rows: int,
    seed: int,
    ends: step_ends.StepEnds | None = None,
) -> Draw:
    """Draws completions, `rows` of them at a time; with `ends`, of one step each.

    What a row becomes depends on its number and the round, not on the rows at a time. Rows stop at
    eos, at the configuration's limit, or where a step ends.

    Args:
      params: bound. eos: the token, or tokens, that end an answer. pad: stands behind rows.
      ends: of steps.
    """
    own_ends = draws.end_ids(eos)
    steps = () if ends is None else tuple(int(i) for i in ends.ids)
    run = generate.make_generate(model, config, eos=(*own_ends, *steps), pad=pad)
    stream = keys.stream(seed, "search")

    def draw(prompts: np.ndarray, lengths: np.ndarray, round: int = 0) -> Rows:
        table = {
            "prompts": np.asarray(prompts, np.int32),
            "lengths": np.asarray(lengths, np.int32),
            "number": np.arange(len(lengths), dtype=np.int32),
        }
        key, found = keys.at(stream, round), list[list[np.ndarray]]()
        for batch, real in pipeline.in_order(table, rows):
            columns = hosts.to_global(batch)
            drawn: Any = hosts.to_host(
                run(params, columns["prompts"], columns["lengths"], key, rows=columns["number"])
            )
            last = np.take_along_axis(drawn.tokens, drawn.lengths[:, None] - 1, axis=1)[:, 0]
            ended = (drawn.lengths > drawn.prompt_lengths) & np.isin(last, own_ends)
            own = (drawn.tokens, drawn.prompt_lengths, drawn.lengths, ended)
            found.append([x[:real] for x in own])
        return Rows(*(np.concatenate(column) for column in zip(*found, strict=True)))

    return draw


def several(draw: Draw, prompts: np.ndarray, lengths: np.ndarray, count: int) -> Rows:
    """`count` completions of each of P prompts: row p count + i is the i-th of prompt p."""
    return draw(np.repeat(prompts, count, axis=0), np.repeat(lengths, count))


def batch_of(rows: Rows) -> dict[str, np.ndarray]:
    """Rows as the table that scoring reads: the loss mask is the completion."""
    slot = np.arange(rows.tokens.shape[1], dtype=np.int32)
    return {
        "tokens": np.asarray(rows.tokens, np.int32),
        "loss_mask": rows.sampled,
        "positions": np.broadcast_to(slot, rows.tokens.shape).copy(),
        "segments": (slot < rows.lengths[:, None]).astype(np.int32),
    }


def scores(
    score: Callable[[Any, Any], jax.Array], params: Any, rows: Rows, size: int
) -> np.ndarray:
    """[B] of a jitted (params, batch) -> [size], `size` rows at a time."""
    found = [
        hosts.to_host(score(params, hosts.to_global(batch)))[:real]
        for batch, real in pipeline.in_order(batch_of(rows), size)
    ]
    return np.concatenate(found).astype(np.float64)
