"""The slots of an engine and what stands in them, on the device and on the host.

Used by the engine's thread alone.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from alignjax.core import shapes
from alignjax.sampling import programs
from alignjax.serving import adapters, apart, compiled, rows, steps
from alignjax.serving.requests import ERROR, Request
from alignjax.serving.served import Served

LEAST_PIECE, LARGEST_PIECE = 16, 256  # tokens of a prompt that are read at once
LEAST_READ = 256  # slots of a cache that a step reads
FACTOR = 4  # between sizes of programs that hold the whole model, which are slow to compile


class Limits(NamedTuple):
    """slots: rows decoded at once. context: tokens of a prompt with its answer. waiting: requests
    that may wait for a slot. seconds: a request takes at most, its waiting too; 0 is no limit."""

    slots: int = 8
    context: int = 1024
    waiting: int = 64
    seconds: float = 600.0

    def validate(self) -> None:
        """Raises ValueError where a limit is not allowed."""
        shapes.check_number("--slots", self.slots, minimum=1, maximum=4096)
        shapes.check_number("--context", self.context, minimum=LEAST_PIECE, maximum=2**20)
        shapes.check_number("--queue", self.waiting, minimum=1)
        shapes.check_number("--request_seconds", self.seconds, minimum=0)


class Slots:
    """Rows that are decoded, and the prompt that is read. steps, tokens: so far."""

    def __init__(self, served: Served, limits: Limits, stack: adapters.Stack | None) -> None:
        """Compiles everything."""
        self._served, self._limits, self._stack = served._replace(params=None), limits, stack
        piece = min(LARGEST_PIECE, limits.context)
        self._shape = steps.Shape(
            served.model,
            limits.slots,
            limits.context,
            steps.sizes(min(LEAST_READ, limits.context), limits.context, FACTOR),
            steps.sizes(min(LEAST_PIECE, piece), piece, FACTOR),
            stack is not None,
        )
        prepared = programs.prepared(served.model.prepare, served.params)(served.params)
        self._weights = apart.apart(prepared)
        self._params = self._weights if stack is None else stack.bound(self._weights)
        self.programs = compiled.compiled(self._shape, self._params)
        self.steps = self.tokens = 0
        self.clear()

    @property
    def busy(self) -> int:
        """Slots that hold a row."""
        return sum(row is not None for row in self._rows)

    @property
    def free(self) -> int:
        """Slots that nothing is meant for."""
        return max(self._limits.slots - self.busy - (self._reading is not None), 0)

    @property
    def has_work(self) -> bool:
        """Whether a prompt is read or a row decoded."""
        return self._reading is not None or self.busy > 0

    @property
    def jobs(self) -> list[rows.Job]:
        """Those of the rows and of the prompt that is read."""
        own = [row.job for row in self._rows if row is not None]
        return list(dict.fromkeys(own + ([self._reading.job] if self._reading else [])))

    def clear(self) -> None:
        """Nothing is read and all slots are free."""
        slots = self._limits.slots
        self._cache, self._staging = self.programs.empty(), self.programs.staging()
        self._pending, self._columns = compiled.pending(slots), compiled.columns(slots)
        self._rows: list[rows.Row | None] = [None] * slots
        self._reading: rows.Reading | None = None

    def admit(self, following: Callable[[], rows.Job | None]) -> None:
        """Reads what `following` gives for free slots, at most a piece's worth of tokens."""
        budget = self._shape.buckets[-1]
        while budget > 0:
            if self._reading is None and not self._next(following):
                return
            reading: Any = self._reading
            if reading.left:
                budget -= self._read_piece(reading)
            elif not self._begin_rows(reading):
                return

    def _next(self, following: Callable[[], rows.Job | None]) -> bool:
        """Takes the next request that waits, if there is a free slot."""
        if None not in self._rows:
            return False
        job = following()
        if job is None:
            return False
        self._reading = rows.Reading(job)
        self._staging = self.programs.reset(self._staging)
        return True

    def _read_piece(self, reading: rows.Reading) -> int:
        """Reads a piece of a prompt; returns how many tokens that cost."""
        own = reading.piece(self._shape.buckets)
        self._staging, logits, scores = self.programs.read_piece[own.length](
            self._params,
            self._staging,
            own.tokens,
            own.targets,
            np.int32(own.start),
            np.int32(own.real),
            np.array([reading.job.adapter], np.int32),
            np.bool_(reading.scored),
        )
        reading.take(own, logits, jax.device_get(scores) if reading.scored else None)
        return own.length

    def _begin_rows(self, reading: rows.Reading) -> bool:
        """Puts the choices of a prompt that was read into slots; whether none waits for one."""
        job = reading.job
        if np.isnan(np.asarray(reading.logits)).any():
            job.end(ERROR, rows.UNSOUND)
            self._reading, self._staging = None, self.programs.staging()
            return True
        if not reading.begun:
            job.tell(reading.prompt())
        if job.request.options.max_tokens == 0:
            job.finish_unanswered()
            self._reading = None
            return True
        while reading.begun < job.request.choices:
            if None not in self._rows:
                return False
            self._begin_row(reading, self._rows.index(None))
        self._reading = None
        return True

    def _begin_row(self, reading: rows.Reading, slot: int) -> None:
        row = rows.Row(reading.job, reading.begun, self._served, self._limits.context)
        reading.begun += 1
        length = len(reading.job.request.prompt)
        size = steps.fitting(tuple(self.programs.put), length)
        at = np.array([slot], np.int32)
        self._cache = self.programs.put[size](self._cache, self._staging, at)
        own = row.columns()
        token, scores = self.programs.draw[1](
            reading.logits, np.array([length], np.int32), own, compiled.wanted(row.kind, row.tells)
        )
        self._rows[slot] = row
        for name in ("rows", "seed", "temperature", "top_k", "top_p", "adapter"):
            getattr(self._columns, name)[slot] = getattr(own, name)[0]
        self._take(slot, np.asarray(token), jax.device_get(scores), 0)

    def step(self) -> None:
        """The next token of every row."""
        live = [row for row in self._rows if row is not None]
        ask = compiled.wanted(max(row.kind for row in live), any(row.tells for row in live))
        read = steps.fitting(self._shape.reads, max(row.position for row in live) + 1)
        adapter = self._columns.adapter
        self._cache, logits = self.programs.step[read](
            self._params, self._cache, self._pending, adapter
        )
        token, scores = self.programs.draw[self._limits.slots](
            logits, self._pending.position + 1, self._columns, ask
        )
        self.steps += 1
        found, told = np.asarray(token), jax.device_get(scores)
        for slot, row in enumerate(self._rows):
            if row is not None:
                self._take(slot, found, told, slot)

    def _take(self, slot: int, tokens: Any, scores: Any, at: int) -> None:
        """Enters a row's next token; a row that ends frees its slot."""
        row: Any = self._rows[slot]
        self.tokens += 1
        if not row.take(int(tokens[at]), scores, at):
            self._free(slot)
            if row.is_unsound:
                self._wipe(slot)
            return
        pending: Any = self._pending
        pending.token[slot], pending.position[slot] = row.token, row.position
        pending.live[slot] = True

    def _wipe(self, slot: int) -> None:
        """Zeros over a slot: numbers that are none pass every mask."""
        blank, at = self.programs.staging(), np.array([slot], np.int32)
        self._cache = self.programs.put[self._limits.context](self._cache, blank, at)

    def drop(self) -> None:
        """Frees what belongs to jobs that nobody waits for."""
        for slot, row in enumerate(self._rows):
            if row is not None and (row.job.gone or row.choice in row.job.dropped):
                self._free(slot)
        if self._reading and self._reading.job.gone:
            self._reading = None

    def adopt(self, name: str, adapter: adapters.Adapter) -> tuple[int, bool]:
        """(the number of an adapter that rows may use now, whether its numbers are finite).

        Where they are not, all is as it was.
        """
        stack: Any = self._stack
        number = stack.put(name, adapter)
        before, self._params = self._params, stack.bound(self._weights)
        sound = self._is_sound(number)
        if not sound:
            self._params = before
            stack.drop(number)
        return number, sound

    def _free(self, slot: int) -> None:
        self._rows[slot] = None
        pending: Any = self._pending
        pending.live[slot] = False

    def _is_sound(self, number: int) -> bool:
        """Whether the model under an adapter gives finite numbers."""
        job = rows.Job(Request(prompt=(0, 1)), lambda event: None, number, None)
        kept, self._staging = self._staging, self.programs.staging()
        reading = rows.Reading(job)
        self._read_piece(reading)
        self._staging = kept
        return bool(np.isfinite(np.asarray(reading.logits)).all())
