"""An answer on its way from the engine to a client, through the guard.

Text and scores are held back until the guard has seen the answer with them, all of it.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, NamedTuple

from starlette.concurrency import run_in_threadpool

from alignjax.serving import engine as engines
from alignjax.serving import moderation, requests, rows
from alignjax.serving.held import Held
from alignjax.serving.http import metrics
from alignjax.serving.http.errors import Refused
from alignjax.serving.http.fields import Asked

FILTERED = "content_filter"
FAILED = 503


class Part(NamedTuple):
    """What may be sent of a choice, counted over all prompts."""

    choice: int
    scored: tuple[requests.Scored, ...] = ()
    text: str = ""
    finish: str = ""


class Answer:
    """The choices of a request, from its first token to its last.

    prompts: the prompts' own tokens by number, once they are told. drawn: tokens of answers so far.
    """

    def __init__(
        self,
        engine: engines.Engine,
        asked: Asked,
        moderator: moderation.Moderation,
        counts: metrics.Metrics,
    ) -> None:
        self.asked, self.drawn = asked, 0
        self.prompts: dict[int, tuple[requests.Scored, ...]] = {}
        self._engine, self._moderation, self._metrics = engine, moderator, counts
        self._loop, self._begin = asyncio.get_running_loop(), time.perf_counter()
        self._queue: asyncio.Queue[tuple[int, requests.Event]] = asyncio.Queue()
        self._jobs: dict[int, rows.Job] = {}
        self._blocked: set[int] = set()

    @property
    def choices(self) -> int:
        """Choices of each prompt."""
        return self.asked.requests[0].choices

    async def begin(self) -> None:
        """Asks the guard, then the engine.

        Raises:
          Refusal: the engine does not take it.
        """
        for own in self.asked.requests:
            self._engine.check(own)
        for number, turns in enumerate(self.asked.turns):
            if await self._is_blocked(self._moderation.before, turns):
                self._blocked.add(number)
        open_ones = [n for n in range(len(self.asked.requests)) if n not in self._blocked]
        jobs = self._engine.submit_all(
            [self.asked.requests[n] for n in open_ones], [self._put(n) for n in open_ones]
        )
        self._jobs = dict(zip(open_ones, jobs, strict=True))

    def _put(self, number: int) -> Callable[[requests.Event], None]:
        def put(event: requests.Event) -> None:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (number, event))

        return put

    async def _is_blocked(self, judge: Callable[..., Any], *texts: Any) -> bool:
        if self._moderation.guard is None:
            return False
        begin = time.perf_counter()
        verdict = await run_in_threadpool(judge, *texts, self.asked.model)
        self._metrics.guard_seconds.observe(time.perf_counter() - begin)
        if verdict.blocked:
            self._metrics.blocked.inc()
        return bool(verdict.blocked)

    def close(self) -> None:
        """Frees what the engine holds of it."""
        for job in self._jobs.values():
            self._engine.cancel(job)

    async def parts(self) -> AsyncGenerator[Part]:
        """What may be sent, as it comes; a finish ends each choice.

        Raises:
          Refused: the engine failed at it.
        """
        try:
            async for part in self._parts():
                yield part
        finally:
            self.close()

    async def _parts(self) -> AsyncGenerator[Part]:
        refusal, left = self._moderation.refusal, len(self._jobs) * self.choices
        for number in sorted(self._blocked):
            for choice in range(self.choices):
                yield Part(number * self.choices + choice, (), refusal, FILTERED)
        window = self._moderation.window if self._moderation.guard is not None else 0
        held = [Held(window) for _ in range(len(self.asked.requests) * self.choices)]
        done: set[int] = set()
        while left:
            number, event = await self._queue.get()
            if event.choice == requests.PROMPT:
                self.prompts[number] = event.scored
                continue
            if event.finish == requests.ERROR:
                raise Refused(event.text, FAILED)
            choice = number * self.choices + event.choice
            if choice in done:
                continue
            part = await self._pass(number, event, held[choice], choice)
            if part is not None:
                left -= bool(part.finish)
                done |= {choice} if part.finish else set()
                yield part

    async def _pass(
        self, number: int, event: requests.Event, held: Held, choice: int
    ) -> Part | None:
        """What an event lets out, if anything."""
        if not self.drawn and event.scored:
            self._metrics.first_token.observe(time.perf_counter() - self._begin)
        self.drawn += len(event.scored)
        held.add(event.scored, event.text)
        ends = bool(event.finish)
        if held.is_held(ends):
            return None
        if held.is_due(ends):
            turns = self.asked.turns[number]
            if await self._is_blocked(self._moderation.answer, turns, held.whole, ends):
                held.dropped()
                self._engine.cancel(self._jobs[number], event.choice)
                return Part(choice, (), self._moderation.refusal, FILTERED)
        return Part(choice, *held.passed(), event.finish)

    async def whole(self) -> list[Part]:
        """Every choice in full; of one that was blocked, the refusal alone."""
        count = len(self.asked.requests) * self.choices
        scored: list[list[requests.Scored]] = [[] for _ in range(count)]
        texts, finish = [""] * count, [""] * count
        async with contextlib.aclosing(self.parts()) as parts:
            async for part in parts:
                if part.finish == FILTERED:
                    scored[part.choice], texts[part.choice] = [], ""
                scored[part.choice] += part.scored
                texts[part.choice] += part.text
                finish[part.choice] = part.finish
        return [Part(n, tuple(scored[n]), texts[n], finish[n]) for n in range(count)]
