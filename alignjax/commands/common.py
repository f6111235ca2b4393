"""Shared by commands: options, the run's folder, messages."""

import contextlib
import ctypes
import dataclasses
import hashlib
import pathlib
import shutil
import signal
import sys
import threading
import unicodedata
from collections.abc import Iterator

import jax
from etils import epath

from alignjax.cli import flags, outcome, stopping
from alignjax.core import errors, shapes, source_file
from alignjax.data import prepare
from alignjax.parallel import processes
from alignjax.runs import bases, caches, records
from alignjax.training import trackers

WORKDIR = flags.Option("workdir", str, "", "the run's folder; the same command continues it")
SAMPLING = (
    flags.Option("max_new_tokens", int, 64, "limit of an answer"),
    flags.Option("temperature", float, 1.0, "divides the logits; 0 is greedy"),
    flags.Option("top_k", int, 0, "keep the k most likely tokens; 0 keeps all"),
    flags.Option("top_p", float, 1.0, "keep the most likely tokens up to this mass"),
    flags.Option("seed", int, 0, "of the samples"),
)
BEST = flags.Option("best", bool, False, "the best state (loop.keep_best) in place of the last")
DEFINITIONS = flags.Option(
    "definitions", str, "", "file that defines the run's own method, data or model, if it has moved"
)
BASE = flags.Option(
    "base", str, "", "where the frozen weights under the run's adapters are, if they have moved"
)
SKIP = flags.Option(
    "skip",
    str,
    "",
    "vision: only the text part of open weights that see too; mtp: no further token; vision+mtp",
)
ALLOW_CODE = flags.Option(
    "allow_code", bool, False, "let rules run programs that the model wrote, in bounded processes"
)
DATA_CACHE = flags.Option(
    "data_cache",
    str,
    "",
    "folder (or bucket) of prepared tables; empty is data_cache beside the run",
)
WORKERS = flags.Option(
    "workers", int, 0, "processes that prepare data; 0 is one for each processor core"
)
DATABASE = flags.Option(
    "database", str, "", "judgements: a file of SQLite, or postgresql://USER@HOST/NAME"
)
RATERS = (  # of a page on which people judge
    flags.Option("host", str, "127.0.0.1", "address; any but this needs --token_file"),
    flags.Option("rater", str, "me", "who judges, where there is no token file"),
    flags.Option("token_file", str, "", "raters, one a line: NAME TOKEN [JSON of attributes]"),
)
TRACKING = (
    flags.Option("tracker", str, "", "wandb, mlflow or trackio, which gets the metrics too"),
    flags.Option("tracker_project", str, "alignjax", "the project there that shows the run"),
)
DEBUG = flags.Option("debug", bool, False, "show tracebacks of errors")
# The same command, started once for each process, is one run on the devices of all of them.
PROCESSES = (
    flags.Option(
        "coordinator",
        str,
        "",
        "HOST:PORT of process 0, or auto where JAX can find it (TPU pod, GKE, SLURM, Open MPI); "
        "empty takes JAX_COORDINATOR_ADDRESS, and is a single process without that",
    ),
    flags.Option("processes", int, 0, "how many there are; 0 takes JAX_NUM_PROCESSES"),
    flags.Option("process_id", int, -1, "which of them this is; -1 takes JAX_PROCESS_ID"),
)


# What may differ between the processes of one command.
OWN_OPTIONS = (
    "workdir",
    "data_cache",
    "workers",
    "coordinator",
    "processes",
    "process_id",
    "tracker",
    "tracker_project",
    "debug",
)


def join(parsed: flags.Parsed) -> None:
    """Joins the other processes of the command, if it has any.

    Raises:
      ValueError: they run another version or another configuration.
    """
    options = parsed.options
    processes.start(options["coordinator"], options["processes"], options["process_id"])
    if processes.count() == 1:
        return
    stop_on_signals()  # the handler that jax.distributed sets would swallow the signal
    processes.check_same("versions", {"alignjax": code_digest(), "jax": jax.__version__})
    shared = {name: value for name, value in options.items() if name not in OWN_OPTIONS}
    config = records.flat(parsed.config) if parsed.config is not None else {}
    processes.check_same("command and configuration", records.as_json({**shared, **config}))


def code_digest() -> str:
    """A digest of the package's source files."""
    digest = hashlib.sha256()
    for file in sorted(outcome.PACKAGE.rglob("*.py")):
        digest.update(f"{file.relative_to(outcome.PACKAGE)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def log(line: str) -> None:
    """Prints a line on stderr."""
    if processes.is_first():
        print(line, file=sys.stderr, flush=True)


def tell(line: str) -> None:
    """Prints a line of a command's result on stdout."""
    if processes.is_first():
        print(line)


def shown(text: str) -> str:
    """What a model said, as a terminal may have it: other control characters than line breaks and
    tabs, which could move its cursor or rename its window, as their codes. A file gets the text."""
    if not sys.stdout.isatty():
        return text
    control = {c for c in text if unicodedata.category(c) == "Cc"} - {"\n", "\t"}
    return "".join(ascii(c)[1:-1] if c in control else c for c in text)


def workdir(parsed: flags.Parsed) -> pathlib.Path:
    """The folder of --workdir; by default runs/NAME[-VARIANT].

    Raises:
      ValueError: the path is a file.
    """
    default = f"runs/{parsed.name}{'-' + parsed.variant if parsed.variant else ''}"
    path = pathlib.Path(parsed.options["workdir"] or default)
    if path.exists() and not path.is_dir():
        raise ValueError(f"--workdir must be a folder; got the file {path}.")
    return path


def data_cache(parsed: flags.Parsed, folder: pathlib.Path) -> prepare.Cache:
    """The cache of --data_cache with --workers; by default the one beside a run's folder.

    Raises:
      ValueError: it is a file, or there are fewer than no workers.
    """
    shapes.check_number("--workers", parsed.options["workers"], minimum=0)
    named, default = parsed.options["data_cache"], caches.default_cache(folder)
    place = epath.Path(named) if named else default.folder
    if place.exists() and not place.is_dir():
        raise ValueError(f"--data_cache must be a folder; got the file {place}.")
    return dataclasses.replace(
        default,
        folder=place,
        workers=parsed.options["workers"],
        progress=processes.is_first() and sys.stderr.isatty(),
    )


def run_folder(parsed: flags.Parsed) -> pathlib.Path:
    """The folder of an existing run.

    Raises:
      ValueError: there is none.
    """
    path = parsed.options["workdir"]
    if not path or not pathlib.Path(path).is_dir():
        raise ValueError(f"--workdir must be the folder of a run; got {path!r}.")
    return pathlib.Path(path)


def tracking(parsed: flags.Parsed) -> trackers.Tracking:
    """The trackers of --tracker.

    Raises:
      ValueError: one is not known, or not installed.
    """
    return trackers.parse(parsed.options["tracker"], parsed.options["tracker_project"])


def command_of(parsed: flags.Parsed) -> str:
    """The command as it was typed, without secrets, for what a run's folder says of itself."""
    return outcome.without_secrets(parsed.line)


def use_definitions(parsed: flags.Parsed) -> None:
    """Lets the file of --definitions define the classes of the runs that a command starts from."""
    if parsed.options["definitions"]:
        source_file.stand_in(parsed.options["definitions"])


def use_base(parsed: flags.Parsed) -> None:
    """Lets the folder of --base stand in for frozen weights that are not where they were."""
    if parsed.options["base"]:
        bases.stand_in(parsed.options["base"])


def stop_on_signals() -> None:
    """SIGTERM and SIGINT end the command at once, but in the train loop, which has its own handler.

    Nothing is lost: what is not finished is done again by the same command. One of several
    processes takes the way of an error, on which the others are told.
    """

    def stop(number: int, frame: object) -> None:
        raise errors.Preempted("stopped by a signal. The same command goes on from there.")

    if threading.current_thread() is threading.main_thread():
        alone = processes.count() == 1
        for number in stopping.NUMBERS:
            if alone and signal.getsignal(number) == signal.SIG_IGN:
                continue
            signal.signal(number, stopping.leave if alone else stop)


def keep_freed_memory() -> None:
    """Tells glibc to keep memory that XLA's CPU backend frees after each step.

    Otherwise every step maps its buffers anew and pays a page fault per 4 KiB: measured on 2
    CPU cores, a step of the default 100k-parameter model takes 1.5 times the CPU time.
    """
    if not sys.platform.startswith("linux"):
        return
    top_pad = -2  # malloc.h: M_TOP_PAD
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(top_pad, 256 * 2**20)


@contextlib.contextmanager
def compilation_cache(folder: pathlib.Path) -> Iterator[None]:
    """Compiled programs are kept in the folder: stages share them and a restart is quick.

    Where JAX_COMPILATION_CACHE_DIR names a folder of the user's, they are kept there. A command
    that is refused inside leaves no new folder behind.
    """
    is_new = not folder.exists()
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute() / "compiled"))
        # All of them, so that a second start compiles nothing.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
        if jax.default_backend() != "gpu":
            # XLA's own caches, of use on GPUs alone, would make the folder's path a part of every
            # program's key: a folder that was moved would compile everything again.
            jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    try:
        yield
    except ValueError:
        if is_new and folder.exists() and {p.name for p in folder.iterdir()} <= {"compiled"}:
            shutil.rmtree(folder)
        raise
