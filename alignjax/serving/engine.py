"""An engine of slots: requests come and go while a step at a time is decoded for all.

One thread runs the model. Prompts are read in pieces between the steps, so that a long one does not
stop the others; every program is compiled before the first request.
"""

import collections
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, NamedTuple

from alignjax.core import errors
from alignjax.serving import adapters, rows, slots
from alignjax.serving.requests import (
    ERROR,
    Event,
    Full,
    Refusal,
    Request,
    UnknownModel,
)
from alignjax.serving.served import Served

DEFAULTS = slots.Limits()
STOPPING = "the server is stopping."


class Load(NamedTuple):
    """What an engine is at. steps: decoded so far; tokens: drawn so far; failures: of programs."""

    busy: int
    slots: int
    waiting: int
    steps: int
    tokens: int
    failures: int


class Engine:
    """Serves a model until it is closed."""

    def __init__(
        self,
        served: Served,
        limits: slots.Limits = DEFAULTS,
        stack: adapters.Stack | None = None,
    ) -> None:
        """Compiles everything. stack: the model's adapters, None for none."""
        limits.validate()
        self.served, self.limits, self.stack = served._replace(params=None), limits, stack
        self._slots = slots.Slots(served, limits, stack)
        self._changed = threading.Condition()
        self._waiting: collections.deque[rows.Job] = collections.deque()
        self._calls: collections.deque[tuple[Callable[[], Any], futures.Future[Any]]] = (
            collections.deque()
        )
        self._closing, self._failures = False, 0
        self._thread = threading.Thread(target=self._run, name="alignjax-engine", daemon=True)
        self._thread.start()

    # --- of any thread ------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """The model's name, then those of its adapters."""
        return (self.served.name, *(self.stack.names if self.stack else ()))

    @property
    def is_alive(self) -> bool:
        """Whether requests are answered."""
        return self._thread.is_alive() and not self._closing

    def load(self) -> Load:
        """What the engine is at."""
        own = self._slots
        return Load(
            own.busy, self.limits.slots, len(self._waiting), own.steps, own.tokens, self._failures
        )

    def number_of(self, name: str) -> int:
        """The number of the adapter of that name; 0 is the model itself.

        Raises:
          UnknownModel: there is none.
        """
        if name in ("", self.served.name):
            return 0
        if self.stack is None or name not in self.stack.names:
            raise UnknownModel(
                f"model must be one of {', '.join(self.names)}; got {name!r:.200}. Name one of "
                "them."
            )
        return self.stack.names[name]

    def check(self, request: Request) -> None:
        """Refuses what can't be served.

        Raises:
          UnknownModel: it names no model. Refusal: it does not fit, or an option is illegal.
        """
        self.number_of(request.model)
        prompt, context = len(request.prompt), self.limits.context
        room = 1 if request.options.max_tokens else 0
        if not prompt:
            raise Refusal("a prompt must have at least one token; got none.")
        if prompt + room > context:
            raise Refusal(
                f"a prompt must leave room for an answer in a context of {context} tokens; got "
                f"{prompt} tokens. Shorten it."
            )
        size = self.served.model.vocab_size
        if not all(0 <= token < size for token in request.prompt):
            raise Refusal(f"a prompt's tokens must be ids from 0 to {size - 1}; got another.")
        if not 1 <= request.choices <= self.limits.slots:
            raise Refusal(
                f"n must be from 1 to the server's {self.limits.slots} slots; got "
                f"{request.choices}."
            )
        try:
            request.options.validate()
        except ValueError as error:
            raise Refusal(str(error)) from None

    def submit(self, request: Request, put: Callable[[Event], None]) -> rows.Job:
        """The job of a request that waits now; `put` takes its events in the engine's thread.

        Raises:
          Full: too many wait. Refusal: see `check`.
        """
        return self.submit_all([request], [put])[0]

    def submit_all(
        self, requests: list[Request], puts: list[Callable[[Event], None]]
    ) -> list[rows.Job]:
        """The jobs of several requests, of which either all wait now or none."""
        for request in requests:
            self.check(request)
        most = self.limits.waiting + self.limits.slots
        if len(requests) > most:  # however empty the server is
            raise Refusal(
                f"prompts must be at most {most} of one request, the server's slots and --queue; "
                f"got {len(requests)}. Send fewer at once."
            )
        deadline = time.monotonic() + self.limits.seconds if self.limits.seconds else None
        jobs = [
            rows.Job(request, put, self.number_of(request.model), deadline)
            for request, put in zip(requests, puts, strict=True)
        ]
        with self._changed:
            if self._closing:
                raise Full(STOPPING)
            wait = sum(not job.gone for job in self._waiting)
            if wait + len(jobs) > self.limits.waiting + self._slots.free:
                raise Full(
                    f"at most {self.limits.waiting} requests may wait; got {len(jobs)} more beside "
                    f"{wait}. Send them again later."
                )
            self._waiting.extend(jobs)
            self._changed.notify()
        return jobs

    def cancel(self, job: rows.Job, choice: int | None = None) -> None:
        """Frees what a job, or one of its choices, holds before the next step; it tells no more."""
        if choice is None:
            job.gone = True
        else:
            job.dropped.add(choice)
        with self._changed:
            self._changed.notify()

    def stream(self, request: Request) -> Iterator[Event]:
        """The events of a request as they come; a loop that is left cancels it."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        job = self.submit(request, events.put)
        left = request.choices
        try:
            while left:
                event = events.get()
                left -= bool(event.finish) and event.choice >= 0
                yield event
        finally:
            self.cancel(job)

    def between_steps(self, function: Callable[[], Any]) -> Any:
        """What a function returns that the engine's thread runs between two steps."""
        own: futures.Future[Any] = futures.Future()
        with self._changed:
            if self._closing:
                raise Full(STOPPING)
            self._calls.append((function, own))
            self._changed.notify()
        return own.result()

    def add_adapter(self, name: str, path: str) -> None:
        """Loads an adapter into a spare place; its name appears once a forward pass was sound.

        Raises:
          Refusal: there is no place for it, or it can't be used beside the others.
        """
        stack = self.stack
        if stack is None:
            raise Refusal(
                "the server must have room for adapters; got none. Start it with --adapter_slots=N."
            )
        own = stack.read(name, path, self.names)

        def adopt() -> None:
            number, sound = self._slots.adopt(name, own)
            if not sound:
                raise Refusal(
                    f"an adapter must give finite numbers; got others ({name}). Train it again."
                )
            stack.publish(name, number)

        self.between_steps(adopt)

    def close(self) -> None:
        """Ends the thread; what is not done is cancelled."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    # --- of the engine's thread ---------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._closing or self._has_work()):
                    self._changed.wait()
                if self._closing:
                    break
                calls = list(self._calls)
                self._calls.clear()
            for function, own in calls:
                try:
                    own.set_result(function())
                except Exception as error:  # the caller's: it is raised there
                    own.set_exception(error)
            try:
                self._turn()
            except Exception as error:  # of a program: what it was given is lost, others may come
                self._fail(error)
        self._end()

    def _has_work(self) -> bool:
        return self._slots.has_work or bool(self._waiting or self._calls)

    def _turn(self) -> None:
        """Drops who has gone, reads a piece of what waits, then decodes a step."""
        self._drop()
        self._slots.admit(self._following)
        if self._slots.busy:
            self._slots.step()

    def _following(self) -> rows.Job | None:
        with self._changed:
            return self._waiting.popleft() if self._waiting else None

    def _drop(self) -> None:
        """Frees what belongs to jobs that were cancelled or took too long."""
        now = time.monotonic()
        with self._changed:
            late = [job for job in self._waiting if job.is_over(now)]
            for job in late:
                self._waiting.remove(job)
        for job in [*late, *(job for job in self._slots.jobs if job.is_over(now))]:
            job.end(ERROR, f"a request must end within {self.limits.seconds:g} s; this has not.")
            job.gone = True
        self._slots.drop()

    def _fail(self, error: Exception) -> None:
        """Ends what was in the slots; what waits goes on."""
        self._failures += 1
        for job in self._slots.jobs:
            job.end(ERROR, f"a program failed: {errors.condense(error)}")
        self._slots.clear()

    def _end(self) -> None:
        with self._changed:
            left = [*self._slots.jobs, *self._waiting]
            self._waiting.clear()
            for _, own in self._calls:
                own.set_exception(Full(STOPPING))
        for job in left:
            job.end(ERROR, STOPPING)


def fresh_seed() -> int:
    """A seed for a request that names none."""
    return secrets.randbits(31)
