"""Several processes as one run: started together, agreeing on what they do, ended together.

Every process runs the same command. Without `start` there is one process, and every function here
is the plain thing: nothing waits, nothing is sent. Words travel through JAX's coordination service,
which process 0 holds, not through the devices: they arrive while a program hangs in a collective.
"""

import hashlib
import json
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from alignjax.core import errors
from alignjax.parallel import rendezvous

HEARTBEAT = 20  # seconds without a sign of life after which a process counts as dead
GRACE = 5.0  # seconds that a process gets to end by itself once another one has failed
SHARED = 30.0  # seconds until what process 0 wrote must be seen by the others
FAREWELL = 10.0  # seconds that a failing process waits until all others know its cause
POLL = 0.5  # seconds of one wait for a word; signals are handled between waits
FAILURE, STOP = "alignjax/failure", "alignjax/stop"


class Group:
    """This process among the others, and its way to talk to them."""

    def __init__(self, client: Any, index: int, count: int):
        self.client, self.index, self.count = client, index, count
        self.leaving = threading.Event()  # the main thread is ending the process itself
        self.ending = threading.Event()  # another process failed, and this one follows it
        self.ended = threading.Event()  # all is over: the watches stop
        self._numbers: dict[str, int] = {}
        self._lock = threading.Lock()
        self._calls, self._stop_at = 0, float("inf")
        self._threads = [
            threading.Thread(target=self._watch, args=pair, daemon=True)
            for pair in ((FAILURE, self._follow), (STOP, self._agree_to_stop))
        ]
        for thread in self._threads:
            thread.start()

    def fresh(self, name: str) -> str:
        """A key that is new each time; processes that ask in the same order get the same ones."""
        self._numbers[name] = self._numbers.get(name, 0) + 1
        return f"alignjax/{name}/{self._numbers[name]}"

    def put(self, key: str, text: str) -> bool:
        """Whether the text now stands under the key; false where another one stood there first."""
        try:
            self.client.key_value_set(key, text)
        except jax.errors.JaxRuntimeError as error:
            if "ALREADY_EXISTS" in str(error):
                return False
            raise
        return True

    def get(self, key: str, seconds: float = float("inf")) -> str | None:
        """The text under a key, awaited; None where it does not come in time."""
        end = time.monotonic() + seconds
        while True:
            left = min(POLL, max(end - time.monotonic(), 0.01))
            try:
                return self.client.blocking_key_value_get(key, int(1000 * left))
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise
            if time.monotonic() >= end or (self.ended.is_set() and seconds == float("inf")):
                return None

    def gather(self, key: str, text: str) -> list[str]:
        """The texts of all processes under one key, by process."""
        self.put(f"{key}/{self.index}", text)
        return [self.get(f"{key}/{i}") or "" for i in range(self.count)]

    def _watch(self, key: str, then: Callable[[str], None]) -> None:
        try:
            text = self.get(key)
        except jax.errors.JaxRuntimeError:
            return  # process 0 is gone: JAX ends this process for want of heartbeats
        if text is not None:
            then(text)

    def _follow(self, text: str) -> None:
        """Ends this process because another one failed, unless it ends by itself."""
        cause = json.loads(text)
        if cause["process"] == self.index or self.leaving.wait(GRACE):
            return
        self.ending.set()
        self._report(cause)
        self._farewell()
        end_now(cause["code"])

    def _report(self, cause: Mapping[str, Any]) -> None:
        line = f"error: process {cause['process']} ended this run: {cause['text']}"
        print(f"alignjax[{self.index}]: {line}", file=sys.stderr, flush=True)

    def _agree_to_stop(self, _: str) -> None:
        """Fixes the call of `should_stop` that stops: the first that no process has reached yet.

        This thread answers for a main thread that waits for the others inside a step. Nobody makes
        a call while the numbers are collected.
        """
        with self._lock:
            calls = self.gather(f"{STOP}/at", str(self._calls))
            self._stop_at = 1 + max(int(text or 0) for text in calls)

    def should_stop(self, asked: bool) -> bool:
        """See the function of this name."""
        if asked:
            self.put(STOP, "")
        with self._lock:
            self._calls += 1
            return self._calls >= self._stop_at

    def fail(self, code: int, text: str) -> int:
        """The exit code of a failure, after all others were told of it.

        Where another process failed before, its cause is said here and its code is the one: this
        failure may be but a consequence.
        """
        self.leaving.set()
        own = {"process": self.index, "code": code, "text": text}
        try:
            if not self.put(FAILURE, json.dumps(own)):
                cause = json.loads(self.get(FAILURE, GRACE) or json.dumps(own))
                if cause["text"] != text:
                    self._report(cause)
                code = cause["code"]
            self._farewell()
        except jax.errors.JaxRuntimeError:
            pass  # process 0 is gone, and with it the way to the others
        return code

    def _farewell(self) -> None:
        """Returns when every process knows of the failure, or after a while.

        Nobody ends before: broken connections would tell the others another story.
        """
        self.put(f"{FAILURE}/seen/{self.index}", "")
        end = time.monotonic() + FAREWELL
        for other in range(self.count):
            self.get(f"{FAILURE}/seen/{other}", max(end - time.monotonic(), 0.0))
        if self.index == 0:
            time.sleep(POLL)  # the others hear nothing any more without it

    def finish(self) -> None:
        """The regular end, together."""
        self.gather(self.fresh("end"), "")
        self.ended.set()
        for thread in self._threads:
            thread.join()
        jax.distributed.shutdown()


_group: Group | None = None


def start(coordinator: str = "", count: int = 0, index: int = -1) -> None:
    """Joins the other processes, if there are any; before anything touches a device.

    Args: as in `rendezvous.launch`.

    Raises:
      ValueError: the arguments do not identify them. errors.Failure: connecting to them failed.
        Where some do not come in time this process ends with one line and code 1.
    """
    global _group
    how = rendezvous.launch(coordinator, count, index, os.environ)
    if how is None or _group is not None:
        return
    seconds = rendezvous.patience(os.environ)
    watch = threading.Timer(seconds, _give_up, (rendezvous.late(how, seconds, os.environ),))
    watch.daemon = True
    watch.start()
    # On CPUs two programs with collectives that run at once can lock each other out: one at a time.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        jax.distributed.initialize(
            *how,
            cluster_detection_method="deactivate" if how.coordinator else None,
            initialization_timeout=seconds + 60,  # at its end JAX would abort the process
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except jax.errors.JaxRuntimeError as error:
        raise errors.Failure(
            f"the other processes did not come: {str(error).splitlines()[0][:200]}. Start the same "
            "command once for each process, with the same --coordinator."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"--coordinator=auto must find a cluster that JAX knows; got {error} Give "
            "--coordinator, --processes and --process_id."
        ) from error
    finally:
        watch.cancel()
    if jax.process_count() == 1:
        return
    _keep_stdout()
    from orbax.checkpoint import multihost  # its public way to JAX's coordination service

    _group = Group(multihost.get_jax_distributed_client(), jax.process_index(), jax.process_count())


def _keep_stdout() -> None:
    """Leaves stdout to what Python prints, and sends to stderr what native code prints there.

    Gloo and NCCL write from threads of their own, into the middle of what a reader of JSON gets.
    """
    sys.stdout.flush()
    own = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(own, "w", buffering=1, encoding=sys.stdout.encoding)


def _give_up(line: str) -> None:
    """Ends this process, whose main thread waits inside JAX, for want of the others."""
    print(line, file=sys.stderr)
    end_now(errors.Failure.code)


def count() -> int:
    """The number of processes."""
    return _group.count if _group else 1


def index() -> int:
    """The number of this process."""
    return _group.index if _group else 0


def is_first() -> bool:
    """Whether this is process 0, which alone writes and speaks for all."""
    return index() == 0


def name() -> str:
    """The program's name in its messages, with the process's number where there are several."""
    return f"alignjax[{_group.index}]" if _group else "alignjax"


def barrier() -> None:
    """Returns when every process is here."""
    if _group:
        _group.gather(_group.fresh("barrier"), "")


def from_first(make: Callable[[], Any]) -> Any:
    """What `make` returns in process 0, in every process. It must be JSON."""
    if _group is None:
        return make()
    key = _group.fresh("first")
    if _group.index == 0:
        _group.put(key, json.dumps(make()))
    return json.loads(_group.get(key) or "")


def least(number: int) -> int:
    """The smallest of the numbers that the processes give, in every process."""
    if _group is None:
        return number
    return min(int(text) for text in _group.gather(_group.fresh("least"), str(number)))


def only_first(act: Callable[[], Any]) -> None:
    """Lets process 0 act, and returns everywhere when it has."""
    if is_first():
        act()
    barrier()


def all_failed() -> bool:
    """Whether all processes call this, at about the same time: the failure is one of all."""
    if _group is None:
        return True
    key, end = _group.fresh("failed"), time.monotonic() + FAREWELL
    _group.put(f"{key}/{_group.index}", "")
    others = [f"{key}/{other}" for other in range(_group.count)]
    return all(_group.get(k, max(end - time.monotonic(), 0.0)) is not None for k in others)


def check_same(what: str, values: Mapping[str, Any]) -> None:
    """Refuses processes that differ.

    Raises:
      ValueError: in every process, naming the values that differ from those of process 0.
    """
    if _group is None:
        return
    key = _group.fresh("same")
    texts = [json.loads(text) for text in _group.gather(key, json.dumps(dict(values)))]
    for other, text in enumerate(texts):
        names = [n for n in {**texts[0], **text} if texts[0].get(n) != text.get(n)]
        if names:
            lines = (f"{n}: {texts[0].get(n)!r} and {text.get(n)!r}" for n in names[:4])
            raise ValueError(
                f"{what} must be the same in all processes; got {', '.join(lines)} in processes 0 "
                f"and {other}. Start the same command on the same files everywhere."
            )


def check_shared(file: pathlib.Path) -> None:
    """Refuses a folder that the processes do not share: `file` is one that process 0 has written.

    Raises:
      errors.Failure: this process does not see it, or sees another one.
    """
    wanted = from_first(lambda: hashlib.sha256(file.read_bytes()).hexdigest())
    end = time.monotonic() + SHARED
    while not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != wanted:
        if time.monotonic() > end:
            raise errors.Failure(
                f"{file.parent} must be one folder that all processes share; process {index()} "
                "does not see what process 0 wrote there. Put --workdir on shared storage."
            )
        time.sleep(POLL)


def should_stop(asked: bool) -> bool:
    """Whether all processes stop here; called at the same points by all, such as after each step.

    asked: whether this process was asked to stop. Soon afterwards every process gets true at one
    and the same call, and at those that follow it.
    """
    return _group.should_stop(asked) if _group else asked


def let_end() -> None:
    """Does not return where this process is ending because of another one.

    What the main thread runs into then is a consequence that nobody needs to read.
    """
    if _group and _group.ending.is_set():
        time.sleep(2 * FAREWELL)


def leave(code: int, text: str) -> None:
    """Ends this process among others; does nothing where it is on its own.

    A failure is told to all others, and the process ends without the interpreter's own clean-up,
    which would wait for them.
    """
    if _group is None:
        return
    if code == 0:
        _group.finish()
        return
    end_now(_group.fail(code, text))


def end_now(code: int) -> None:
    """Ends this process at once, without the interpreter's clean-up."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
