"""What rows have so far, on the host."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from alignjax.sampling import ragged, schedule, transforms

Text = Callable[[np.ndarray], str]  # of the tokens [N] of a completion


class Table:
    """Completions of R rows as they grow.

    tokens, logprobs [R, N]; count [R] of tokens so far; lengths [R] of prompts; ended [R].
    """

    def __init__(
        self,
        lengths: np.ndarray,
        rows: np.ndarray,
        options: transforms.RowOptions,
        new: int,
        pad: int,
    ):
        shape = (len(lengths), new)
        self.tokens, self.logprobs = np.full(shape, pad, np.int32), np.zeros(shape, np.float32)
        self.count, self.ended = np.zeros(len(lengths), np.int32), np.zeros(len(lengths), bool)
        self.lengths, self._rows, self._options, self._pad = lengths, rows, options, pad
        limit = new if options.limit is None else np.minimum(options.limit, new)
        self.end = (lengths + limit).astype(np.int32)

    @property
    def position(self) -> np.ndarray:
        """[R] where each row's last token stands."""
        return self.lengths + self.count - 1

    @property
    def live(self) -> np.ndarray:
        """[R] rows that have begun and go on."""
        return (self.count > 0) & ~self.ended & (self.position + 1 < self.end)

    def arrays(self) -> dict[str, np.ndarray]:
        """The columns of a completion."""
        names = ("tokens", "logprobs", "count", "ended")
        return {name: getattr(self, name) for name in names}

    def columns(self, slots: np.ndarray) -> ragged.Columns:
        """Of the row in each slot; what stands for a free one means nothing."""
        at = slots.reshape(-1)
        own = jax.tree.map(lambda x: x[at], self._options)
        return ragged.Columns(rows=self._rows[at], end=self.end[at], options=own)

    def pending(self, slots: np.ndarray) -> ragged.Pending:
        """The last token of the row in each slot; in a free one, of none that goes on."""
        at = slots.reshape(-1)
        last = self.tokens[at, np.maximum(self.count[at] - 1, 0)]
        live = (at != schedule.FREE) & self.live[at]
        return ragged.Pending(token=last, position=self.position[at], live=live)

    def add(self, slots: np.ndarray, chunk: Any, where: np.ndarray | None = None) -> np.ndarray:
        """Takes what was drawn in the slots, in those of `where` if it is given; returns the rows.

        chunk: a `ragged.Chunk` on the host.
        """
        at = slots.reshape(-1)
        taken = (at != schedule.FREE) & (chunk.count > 0)
        taken = np.flatnonzero(taken if where is None else taken & where.reshape(-1))
        rows, count = at[taken], chunk.count[taken]
        offset = np.arange(chunk.tokens.shape[1])[None] + 0 * count[:, None]
        real = offset < count[:, None]
        row, place = (rows[:, None] + 0 * offset)[real], (self.count[rows, None] + offset)[real]
        self.tokens[row, place] = chunk.tokens[taken][real]
        self.logprobs[row, place] = chunk.logprobs[taken][real]
        self.count[rows] += count
        self.ended[rows] |= chunk.ended[taken]
        return rows

    def cut(self, rows: np.ndarray, before: np.ndarray, stop: Sequence[str], text: Text) -> bool:
        """Ends rows behind the token that completes one of the texts `stop`; whether there is one.

        before: [R] tokens in which none was complete.
        """
        found = False
        for row in rows:
            own = self.tokens[row, : self.count[row]]
            if not _has(text(own), stop):
                continue
            lengths = range(int(before[row]) + 1, len(own) + 1)
            end = next((n for n in lengths if _has(text(own[:n]), stop)), len(own))
            self.tokens[row, end:], self.logprobs[row, end:] = self._pad, 0.0
            self.count[row], self.ended[row], found = end, True, True
        return found


def _has(text: str, stop: Sequence[str]) -> bool:
    return any(part in text for part in stop)
