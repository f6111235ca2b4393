"""What an engine knows of its requests on the host: those that are read, and those in slots."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from alignjax.serving import compiled, steps
from alignjax.serving.requests import (
    ERROR,
    LENGTH,
    NO_SCORES,
    PROMPT,
    STOP,
    Event,
    Options,
    Request,
    Scored,
)
from alignjax.serving.served import Served
from alignjax.serving.stops import Stops
from alignjax.text import pieces

SEEDS = 2**31  # seeds count modulo this
UNSOUND = "the model must give finite numbers; got others."


class Job:
    """A request on its way. gone: whether nobody waits for it any more."""

    def __init__(
        self,
        request: Request,
        put: Callable[[Event], None],
        adapter: int,
        deadline: float | None,
    ) -> None:
        self.request, self.adapter, self.gone = request, adapter, False
        self.dropped = set[int]()  # choices that nobody waits for
        self._put, self._deadline, self._ended = put, deadline, set[int]()

    def is_over(self, now: float) -> bool:
        """Whether its time is up, or nobody waits for it."""
        return self.gone or (self._deadline is not None and now > self._deadline)

    def tell(self, event: Event) -> None:
        """Passes an event on; where that fails nobody waits."""
        if self.gone or event.choice in self.dropped:
            return
        if event.finish:
            self._ended.add(event.choice)
        try:
            self._put(event)
        except Exception:  # of the reader: its loop is closed, for one
            self.gone = True

    def end(self, finish: str, text: str = "") -> None:
        """Ends the choices that have not ended."""
        for choice in range(self.request.choices):
            if choice not in self._ended:
                self.tell(Event(choice, text=text, finish=finish))

    def finish_unanswered(self) -> None:
        """Ends the choices of a request that wants no tokens."""
        self.end(LENGTH)


class Piece(NamedTuple):
    """Tokens of a prompt that are read at once, and those that follow each, [1, length]."""

    start: int
    real: int
    length: int
    tokens: np.ndarray
    targets: np.ndarray


class Reading:
    """A prompt that is read. begun: choices that have a slot. logits: behind it, once all is."""

    def __init__(self, job: Job) -> None:
        self.job, self.begun, self.logits = job, 0, None
        self._at = 0
        options = job.request.options
        self.scored = options.echo and options.top != NO_SCORES
        self._scored: list[Scored] = []

    @property
    def left(self) -> int:
        """Tokens that were not read yet."""
        return len(self.job.request.prompt) - self._at

    def piece(self, buckets: tuple[int, ...]) -> Piece:
        """The next tokens, of the smallest bucket that is enough."""
        count = min(self.left, buckets[-1])
        length = steps.fitting(buckets, count)
        tokens, targets = np.zeros((2, 1, length), np.int32)
        own = self.job.request.prompt[self._at : self._at + count + 1]
        tokens[0, :count] = own[:count]
        targets[0, : len(own) - 1] = own[1:]
        return Piece(self._at, count, length, tokens, targets)

    def take(self, piece: Piece, logits: Any, scores: Any) -> None:
        """Enters a piece that was read."""
        self._at += piece.real
        self.logits = logits
        if scores is not None:
            top = self.job.request.options.top
            real = piece.real if self.left else piece.real - 1  # nothing follows the last
            self._scored += [scored(int(piece.targets[0, n]), scores, n, top) for n in range(real)]

    def prompt(self) -> Event:
        """The prompt's tokens, where they are to be told."""
        request = self.job.request
        if not request.options.echo:
            return Event(PROMPT)
        if self.scored:
            return Event(PROMPT, (Scored(request.prompt[0], None), *self._scored))
        return Event(PROMPT, tuple(Scored(token, None) for token in request.prompt))


def scored(token: int, scores: Any, at: int, top: int) -> Scored:
    """A token with its scores at a place of a program's."""
    count = max(top, 0)
    best = (
        zip(scores.top[at, :count], scores.top_logprobs[at, :count], strict=True) if count else ()
    )
    return Scored(token, float(scores.logprob[at]), tuple((int(t), float(p)) for t, p in best))


def kind_of(options: Options) -> int:
    """What a step must do for rows with these options."""
    if options.temperature == 0:
        return steps.GREEDY
    return steps.PLAIN if options.top_k == 0 and options.top_p >= 1 else steps.TRUNCATED


class Row:
    """A choice in a slot: its last token, where that stands, its text so far.

    kind: what a step must do for it; tells: whether it wants the most likely tokens.
    """

    def __init__(self, job: Job, choice: int, served: Served, context: int) -> None:
        request = job.request
        options, length = request.options, len(request.prompt)
        self.job, self.choice = job, choice
        self.kind, self.tells = kind_of(options), options.top > 0
        self.token, self.position = 0, length - 1
        self.is_unsound = False
        self._end = min(length + options.max_tokens, context)
        self._ends = served.ends
        self._pieces = pieces.Pieces(served.speaker, within=request.within)
        self._stops = Stops(options.stop)

    def columns(self) -> steps.Columns:
        """Its columns, of one row."""
        own: Any = compiled.columns(1)
        options = self.job.request.options
        own.rows[0], own.seed[0] = self.choice, options.seed % SEEDS
        own.temperature[0] = options.temperature
        own.top_k[0], own.top_p[0] = options.top_k, options.top_p
        own.adapter[0] = self.job.adapter
        return own

    def take(self, token: int, scores: Any, at: int) -> bool:
        """Enters the next token and tells of it; whether the row goes on."""
        logprob = float(scores.logprob[at])
        if math.isnan(logprob):
            self.is_unsound = True
            self.job.tell(Event(self.choice, text=UNSOUND, finish=ERROR))
            return False
        self.token, self.position = token, self.position + 1
        top = self.job.request.options.top
        own = scored(token, scores, at, top)
        text, complete = self._stops.add(self._pieces.add(token))
        finish = STOP if complete or token in self._ends else ""
        if not finish and self.position + 1 >= self._end:
            finish = LENGTH
        if finish and not complete:
            rest, complete = self._stops.add(self._pieces.end())
            text += rest if complete else rest + self._stops.end()
            finish = STOP if complete else finish
        self.job.tell(Event(self.choice, (own,), text, finish))
        return not finish
