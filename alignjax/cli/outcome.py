"""From the outcome of a command to its exit code and its message on stderr."""

import collections.abc
import contextlib
import datetime
import io
import logging
import os
import pathlib
import re
import select
import sys
import sysconfig
import tempfile
import threading
import traceback
from typing import Any

import jax

from alignjax.core import errors
from alignjax.parallel import processes

PACKAGE = pathlib.Path(__file__).resolve().parent.parent
STDLIB = pathlib.Path(sysconfig.get_paths()["stdlib"]).resolve()
# Files of users that are missing or of the wrong kind; a full disk is not among them.
FILE_ERRORS = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    UnicodeDecodeError,
)
CLOSED = 141  # as of a program that SIGPIPE ends: whoever read the output wanted no more
LONGEST = 1000  # characters of a message; whole training examples don't fit (R57)
SECRET_NAME = re.compile(r"TOKEN(?!I)|SECRET|PASSW|PASSPHRASE|CREDENTIAL|AUTHORI|KEY$|KEY_ID$")
SECRET_IN_URL = re.compile(r"://[^/\s@:]*:([^/\s@]+)@")


def one_line(text: str, longest: int = LONGEST) -> str:
    """The text on one line of at most so many characters, without control characters."""
    words = " ".join(text.split())
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)
    return shown if len(shown) <= longest else shown[: longest - 4] + " ..."


def without_secrets(text: str) -> str:
    """The text with the values of secret environment variables replaced by their names."""
    secrets = {}
    for name, value in os.environ.items():
        if SECRET_NAME.search(name.upper()):
            secrets[value] = name
        secrets |= dict.fromkeys(SECRET_IN_URL.findall(value), name)
    for value in sorted(secrets, key=len, reverse=True):
        if len(value) >= 6:  # shorter ones would hit ordinary words
            text = text.replace(value, f"[{secrets[value]}]")
    return text


def describe(error: BaseException) -> str:
    """An exception's message, in one line."""
    if isinstance(error, OSError) and error.filename is not None:
        return one_line(f"{error.strerror}: {os.fsdecode(error.filename)!r}")
    return one_line(str(error)) or type(error).__name__


def is_std(file: str) -> bool:
    """Whether a source file belongs to Python itself."""
    path = pathlib.Path(file).resolve()
    inside = STDLIB in path.parents and "site-packages" not in path.parts
    return inside or file.startswith("<frozen")


def is_ours(file: str) -> bool:
    """Whether a source file belongs to alignjax or to a folder of experiments."""
    path = pathlib.Path(file).resolve()
    if PACKAGE in path.parents:
        return True
    foreign = "site-packages" in path.parts or is_std(file)
    return "experiments" in path.parent.parts and not foreign


def is_usage(error: BaseException) -> bool:
    """Whether an exception tells of wrong options, data or configuration rather than of a fault.

    A ValueError is one where our own code raised it. A file error is one also where our code
    reached the file through the standard library.
    """
    if not isinstance(error, (ValueError, *FILE_ERRORS)):
        return False
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, FILE_ERRORS):
        frames = [file for file in frames if not is_std(file)]
    return bool(frames) and is_ours(frames[-1])


def write_traceback(text: str, folder: pathlib.Path | None) -> pathlib.Path | None:
    """The file that now holds the text: error.txt in the folder, or in a temporary one.

    It is appended to: the first cause stays when a restart, or another host, fails as well.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    for make in (lambda: folder, lambda: pathlib.Path(tempfile.mkdtemp(prefix="alignjax-"))):
        with contextlib.suppress(OSError):
            place = make()
            if place is not None:
                place.mkdir(parents=True, exist_ok=True)
                file = place / "error.txt"
                with file.open("a", encoding="utf-8", errors="backslashreplace") as out:
                    out.write(f"--- {now}, process {os.getpid()}\n{text}\n")
                return file
    return None


def condensed(error: BaseException, file: pathlib.Path | None) -> list[str]:
    """At most five lines about a fault: the error, its place in our code, its origin, the log."""
    kind, message = type(error).__name__, describe(error)
    lines = [
        f"alignjax: error: {kind}: {message}" if message != kind else f"alignjax: error: {kind}"
    ]
    if isinstance(error, MemoryError):
        lines = ["alignjax: error: the host ran out of memory. Use less data or a smaller model."]
    elif "RESOURCE_EXHAUSTED" in message:
        lines = [
            f"alignjax: error: the device ran out of memory: {message[:300]}",
            "  Lower loop.batch_size, raise loop.micro_batches or set model.remat=full.",
        ]
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if is_ours(frame.filename)]
    places = dict.fromkeys((f.filename, f.lineno, f.name) for f in (*ours[-1:], *frames[-1:]))
    lines += [one_line(f"  at {name}:{line} in {where}") for name, line, where in places]
    lines += [f"  The full traceback is in {file}." if file else "  --debug shows the traceback."]
    return lines


def outcome(
    error: BaseException, log_folder: pathlib.Path | None, full: str
) -> tuple[int, list[str]]:
    """(exit code, lines for stderr) of an exception. A fault's traceback is written down."""
    if isinstance(error, (errors.Failure, errors.Preempted)):
        return error.code, [f"alignjax: error: {describe(error)}"]
    if isinstance(error, KeyboardInterrupt):
        return errors.Preempted.code, [
            "alignjax: stopped from the keyboard. "
            "The same command goes on from the last checkpoint."
        ]
    if errors.is_no_room(error):
        frames = [f for f in traceback.extract_tb(error.__traceback__) if is_ours(f.filename)]
        where = describe(error) + "".join(f" in {frame.name}" for frame in frames[-1:])
        return 1, [
            f"alignjax: error: a disk must have room for what is written; got {where}. "
            "Make room and run the same command again."
        ]
    if is_usage(error):
        return 2, [f"alignjax: error: {describe(error)}"]
    return 1, condensed(error, write_traceback(full, log_folder))


@contextlib.contextmanager
def whole_tracebacks() -> collections.abc.Iterator[None]:
    """Tracebacks keep JAX's own frames: without them its errors would seem to be this package's."""
    before = jax.config.values["jax_traceback_filtering"]
    jax.config.update("jax_traceback_filtering", "off")
    try:
        yield
    finally:
        jax.config.update("jax_traceback_filtering", before)


class _Untraced(logging.Filter):
    """Takes the tracebacks out of what libraries log. It stays: their threads outlive a command."""

    active = True

    def filter(self, record: logging.LogRecord) -> bool:
        if self.active:
            record.untraced = record.exc_info  # for handlers that look for a cause
            record.exc_info = record.exc_text = None
            if record.levelno >= logging.ERROR:  # TensorStore's have thousands of characters
                record.msg, record.args = one_line(record.getMessage(), 400), ()
        return True


class _Unretrieved(logging.Filter):
    """One short line for all tasks of asyncio that failed alike and that nobody waited for.

    When a disk is full, every array of a checkpoint fails to be written; one of them ends the run
    in words, and the others are told by asyncio, with a traceback each, whenever they are freed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.told: set[type | None] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if not _UNTRACED.active or "exception was never retrieved" not in message:
            return True
        error = record.exc_info[1] if record.exc_info else None
        is_new = type(error) not in self.told
        self.told.add(type(error))
        record.msg, record.args = f"in the background: {errors.condense(error or Exception())}", ()
        record.exc_info = record.exc_text = None
        return is_new


_UNTRACED = _Untraced()
logging.getLogger("absl").addFilter(_UNTRACED)  # of Orbax and JAX's own libraries
logging.getLogger("asyncio").addFilter(_Unretrieved())


def nobody_reads(stream: Any) -> bool:
    """Whether a stream is a pipe whose reader has gone, as `head` goes after its lines."""
    try:
        ends = select.poll()
        ends.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in ends.poll(0))
    except (AttributeError, OSError, ValueError):  # a stream of no file, a system without poll
        return False


@contextlib.contextmanager
def quiet_threads() -> collections.abc.Iterator[None]:
    """Inside, what ends a thread of a library is a line, and the same one is not told again.

    Such threads fail beside the command, which hears of it where it waits for them: a full disk
    or a damaged checkpoint would be lost in tens of their tracebacks.
    """
    told: set[str] = set()

    def tell(error: BaseException | None) -> None:
        line = f"{type(error).__name__}: {describe(error)[:300]}" if error else "an unknown error"
        if line not in told:
            told.add(line)
            with contextlib.suppress(OSError, ValueError):
                print(
                    without_secrets(f"alignjax: in a thread: {line}"), file=sys.stderr, flush=True
                )

    before = sys.excepthook, threading.excepthook, sys.unraisablehook
    sys.excepthook = lambda kind, error, trace: tell(error)
    threading.excepthook = lambda own: tell(own.exc_value)
    sys.unraisablehook = lambda own: tell(own.exc_value)
    try:
        yield
    finally:
        sys.excepthook, threading.excepthook, sys.unraisablehook = before


def run_command(
    fn: collections.abc.Callable[[], int | None],
    *,
    debug: bool,
    log_folder: pathlib.Path | None,
) -> int:
    """The exit code of a command (see `core.errors`); errors are described on stderr.

    Args:
      fn: the command; returns its exit code, or None for 0.
      debug: show tracebacks on stderr.
      log_folder: where error.txt goes; None is a temporary folder.
    """
    _UNTRACED.active = not debug
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # of an encoding that lacks a character
    try:
        with whole_tracebacks(), contextlib.nullcontext() if debug else quiet_threads():
            code = fn() or 0
            sys.stdout.flush()
            processes.leave(code, f"exit code {code}")
            return code
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        error: BaseException = ValueError(str(stop.code))
        code, lines = 1, [f"alignjax: error: {describe(error)}"]
    except (Exception, KeyboardInterrupt, errors.Preempted) as caught:
        if isinstance(caught, BrokenPipeError) and nobody_reads(sys.stdout):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to flush
            return CLOSED
        error = caught
        full = without_secrets("".join(traceback.format_exception(error)))
        code, lines = outcome(error, log_folder, full)
    shown = ["".join(traceback.format_exception(error)).rstrip()] if debug else []
    processes.let_end()
    lines[0] = lines[0].replace("alignjax", processes.name(), 1)
    with contextlib.suppress(OSError):  # nobody reads stderr any more: the code still tells
        print(without_secrets("\n".join([*shown, *lines])), file=sys.stderr, flush=True)
    if isinstance(error, errors.Stalled) and processes.count() == 1:
        processes.end_now(code)  # the hanging threads would hold the interpreter's own end
    processes.leave(code, without_secrets(lines[0].partition("error: ")[2] or lines[0]))
    return code
