"""Worker processes that score rows, with a deadline for each.

A rule that may hang, crash, eat memory or fork runs here and not in the trainer. Workers are
spawned, never forked, see no accelerator, and import no JAX of their own. A job that isn't done by
its deadline is a failure, at once; its worker gets SIGTERM, then SIGKILL, with every process that
it started, and another takes its place. No signals and no alarms in the caller's process, so a pool
may be used from any thread, one call at a time.
"""

import contextlib
import itertools
import json
import os
import pathlib
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignjax.core import untrusted
from alignjax.rewards import processes

START_SECONDS = 120.0  # for a worker to start and to load a handler: the deadline begins after it
GRACE_SECONDS = 0.3  # from SIGTERM to SIGKILL
LOOK_SECONDS = 0.1  # between looks at processes that say nothing
COUNT_SECONDS = 0.25  # between counts of a job's processes
PROCESSES = 64  # of one job: more are a fork bomb, and end it
LINE = 1 << 20  # bytes of an answer
_NUMBERS = itertools.count()


class Request(NamedTuple):
    """A job: what worker.py's process is to do with a payload.

    handler: "module:name" of a function spec -> (payload -> value). spec, payload: JSON.
    seconds: wall-clock deadline, from when the handler is loaded.
    """

    handler: str
    spec: Mapping[str, Any]
    payload: Any
    seconds: float


class Outcome(NamedTuple):
    """A job's value, or in a line why there is none. broken: its handler could not be loaded."""

    value: Any = None
    error: str = ""
    broken: bool = False


class _Worker:
    """A process, the job that it has, and until when."""

    def __init__(self, memory_mib: int):
        number = next(_NUMBERS)
        self.token = f"{os.getpid()}-{number}/"
        # Under root: users of its own for the worker, and for programs that it runs.
        self.users = tuple(processes.spare_user(2 * number + i) for i in range(2))
        environment = {
            **os.environ,
            processes.TOKEN: self.token,
            processes.USER: str(self.users[1]),
            "JAX_PLATFORMS": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONHASHSEED": "0",
            **{f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")},
        }
        script = pathlib.Path(__file__).with_name("worker.py")
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(script), str(memory_mib), str(self.users[0])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
            bufsize=0,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.requests, self.answers = self.process.stdin, self.process.stdout
        for pipe in (self.requests, self.answers):
            os.set_blocking(pipe.fileno(), False)
        self.job: int | None = None
        self.unsent, self.received = b"", b""
        self.deadline = self.counted = self.kill_at = 0.0
        self.ready, self.done = False, 0

    def give(self, job: int, request: Request) -> None:
        self.job, self.ready, self.received = job, False, b""
        self.deadline = time.monotonic() + START_SECONDS
        self.counted = time.monotonic()
        self.done += 1
        fields = {"handler": request.handler, "spec": request.spec, "payload": request.payload}
        self.unsent = json.dumps(fields, default=_plain).encode() + b"\n"
        self.send()

    def send(self) -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            while self.unsent:
                written = self.requests.write(self.unsent)
                if written is None:
                    return
                self.unsent = self.unsent[written:]

    def members(self) -> set[int]:
        """It and all that it started."""
        return processes.members(self.process.pid, self.token, self.users)

    def end(self) -> None:
        """Kills it with all that it started."""
        processes.sweep(self.process.pid, self.token, self.users)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=1)
        for pipe in (self.requests, self.answers):
            with contextlib.suppress(OSError):
                pipe.close()


def _plain(value: Any) -> Any:
    """NumPy's values as JSON's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a row's columns must be JSON; got a {type(value).__name__}")


class Pool:
    """Worker processes, started as they are needed and ended with the pool or the program.

    Args:
      workers: processes at most; 0 is one for each CPU, up to 16.
      lifetime: jobs after which a worker is replaced, against leaks. To load SymPy takes as long as
        some 100 answers.
      memory_mib: address space of each, MiB.
    """

    def __init__(self, workers: int = 0, *, lifetime: int = 1000, memory_mib: int = 4096):
        for name, value in {"lifetime": lifetime, "memory_mib": memory_mib}.items():
            if value < 1:
                raise ValueError(f"{name} of a pool must be >= 1; got {value}.")
        if workers < 0:
            raise ValueError(f"workers of a pool must be >= 0; got {workers}.")
        self.size = workers or min(os.cpu_count() or 1, 16)
        self.lifetime, self.memory_mib = lifetime, memory_mib
        self.workers: list[_Worker] = []
        self.lock = threading.Lock()
        self.close = weakref.finalize(self, _close, self.workers, os.getpid())

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def run(self, requests: Sequence[Request]) -> list[Outcome]:
        """The outcome of every request, in order; each within its deadline and 2 seconds."""
        with self.lock:
            if not self.close.alive:
                raise ValueError("a pool must be open to run jobs; this one is closed.")
            run = _Run(self, requests)
            try:
                while not run.is_done():
                    run.step()
            except BaseException:
                _close(self.workers, os.getpid())
                raise
            return run.outcomes


_SHARED: list[Pool] = []


def shared() -> Pool:
    """The pool of this process, for all rules that need one."""
    if not _SHARED or not _SHARED[0].close.alive:
        _SHARED[:] = [Pool()]
    return _SHARED[0]


def _close(workers: list[_Worker], owner: int) -> None:
    if owner == os.getpid():  # and not a fork of it
        while workers:
            workers.pop().end()


class _Run:
    """One call of `Pool.run`."""

    def __init__(self, pool: Pool, requests: Sequence[Request]):
        self.pool, self.requests = pool, requests
        self.waiting = deque(range(len(requests)))
        self.outcomes = [Outcome(error="not run") for _ in requests]
        self.ending: list[_Worker] = []
        self.refused = 0.0  # since when no worker can be started

    def is_done(self) -> bool:
        busy = any(worker.job is not None for worker in self.pool.workers)
        return not (self.waiting or busy or self.ending)

    def step(self) -> None:
        """Gives out jobs, waits for what workers say, and ends those that are late."""
        self._give()
        busy = [worker for worker in self.pool.workers if worker.job is not None]
        if not busy and not self.ending:
            return
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                selector.register(worker.answers, selectors.EVENT_READ, worker)
                if worker.unsent:
                    selector.register(worker.requests, selectors.EVENT_WRITE, worker)
            times = [w.deadline for w in busy] + [w.kill_at for w in self.ending]
            wait = min(min(times) - time.monotonic(), LOOK_SECONDS)
            for key, _ in selector.select(max(wait, 0)):
                worker = key.data
                if key.fileobj is worker.requests:
                    worker.send()
                elif worker.job is not None:
                    self._receive(worker)
        for worker in busy:
            if worker.job is not None:
                self._supervise(worker)
        for worker in [w for w in self.ending if w.kill_at <= time.monotonic()]:
            self.ending.remove(worker)
            worker.end()

    def _give(self) -> None:
        workers = self.pool.workers
        for worker in [w for w in workers if w.job is None]:
            if worker.process.poll() is not None or worker.done >= self.pool.lifetime:
                workers.remove(worker)
                worker.end()
        idle = [worker for worker in workers if worker.job is None]
        while self.waiting and (idle or len(workers) + len(self.ending) < self.pool.size):
            if not idle:
                new = self._started()
                if new is None:
                    return
                idle.append(new)
                workers.append(new)
            job = self.waiting.popleft()
            worker = idle.pop()
            try:
                worker.give(job, self.requests[job])
            except (TypeError, ValueError) as error:
                self._finish(worker, Outcome(error=str(error)))

    def _started(self) -> _Worker | None:
        """Another worker; None where the machine has no process left, for a while."""
        try:
            worker = _Worker(self.pool.memory_mib)
        except BlockingIOError:
            self.refused = self.refused or time.monotonic()
            if time.monotonic() - self.refused > START_SECONDS:
                raise
            time.sleep(LOOK_SECONDS)
            return None
        self.refused = 0.0
        return worker

    def _finish(
        self, worker: _Worker, outcome: Outcome, *, end: bool = False, grace: float = GRACE_SECONDS
    ) -> None:
        assert worker.job is not None
        job, worker.job = worker.job, None
        self.outcomes[job] = outcome
        if outcome.broken:  # so are all others of its handler
            same = [i for i in self.waiting if self.requests[i][:2] == self.requests[job][:2]]
            self.outcomes = [outcome if i in same else o for i, o in enumerate(self.outcomes)]
            self.waiting = deque(i for i in self.waiting if i not in same)
        if end:
            self.pool.workers.remove(worker)
            self.ending.append(worker)
            worker.kill_at = time.monotonic() + grace
            processes.send([worker.process.pid], signal.SIGTERM, group=True)

    def _receive(self, worker: _Worker) -> None:
        with contextlib.suppress(BlockingIOError):
            chunk = os.read(worker.answers.fileno(), 1 << 16)
            worker.received += chunk
            if not chunk:
                return self._died(worker)
        if len(worker.received) > LINE:
            return self._finish(worker, Outcome(error=f"it answered over {LINE} bytes"), end=True)
        while worker.job is not None and b"\n" in worker.received:
            line, _, worker.received = worker.received.partition(b"\n")
            try:
                answer = untrusted.parse_json(line, "an answer")
            except untrusted.Refused:
                return self._finish(worker, Outcome(error="it wrote over its answer"), end=True)
            if "ready" in answer:
                worker.ready = True
                worker.deadline = time.monotonic() + self.requests[worker.job].seconds
                continue
            error, broken = answer.get("error", ""), "broken" in answer
            outcome = Outcome(answer.get("value"), error, broken)
            crowded = bool(error) and len(worker.members()) > 1
            self._finish(worker, outcome, end="last" in answer or crowded)
        return None

    def _supervise(self, worker: _Worker) -> None:
        """Ends a worker that is dead, late, or a crowd."""
        now, job = time.monotonic(), worker.job
        assert job is not None
        if worker.process.poll() is not None:
            self._died(worker)
        elif now >= worker.deadline:
            seconds = self.requests[job].seconds if worker.ready else START_SECONDS
            late = f"{'no answer' if worker.ready else 'not ready'} within {seconds:g} seconds"
            self._finish(worker, Outcome(error=late, broken=not worker.ready), end=True)
        elif now - worker.counted >= COUNT_SECONDS:
            worker.counted = now
            if len(worker.members()) > PROCESSES:
                error = f"it started more than {PROCESSES} processes"
                self._finish(worker, Outcome(error=error), end=True, grace=0.0)

    def _died(self, worker: _Worker) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(timeout=0.5)
        code = worker.process.poll()
        how = f"exit code {code}" if code is None or code >= 0 else signal.Signals(-code).name
        self._finish(worker, Outcome(error=f"its process died of {how}"), end=True, grace=0.0)
