"""One writer behind a queue, readers apart: many threads, and never `database is locked`."""

import contextlib
import importlib.util
import pathlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import IO, Any, NamedTuple, TypeVar

from alignjax.feedback import content

T = TypeVar("T")
BATCH = 64  # jobs of one commit at most


def check_extra() -> None:
    """Raises ValueError where what the extra `feedback` installs is missing."""
    for name in ("sqlalchemy", "starlette", "uvicorn", "jinja2"):
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"feedback must have its packages; got no {name}. Run pip install "
                "'alignjax[feedback]'."
            )


class Clock:
    """Seconds since 1970 that never go back, whatever happens to the machine's clock.

    start: the latest time in the database. From the beginning on, time is the monotonic clock's.
    """

    def __init__(self, start: float, wall: float | None = None) -> None:
        own = time.time() if wall is None else wall
        self.moved_back = max(start - own, 0.0)
        self._base, self._begun = max(own, start), time.monotonic()

    def now(self) -> float:
        """The time."""
        return self._base + time.monotonic() - self._begun


class Job(NamedTuple):
    """A function of a connection, and where its result goes."""

    run: Callable[[Any], Any]
    result: futures.Future[Any]


class Database:
    """A database that is open: one thread writes, any thread reads.

    `write` returns after COMMIT, so what it returned is on disk. Jobs that wait at the same time
    share one commit; one that is refused changes nothing and does not disturb the others.
    """

    def __init__(self, reader: Any, writer: Any, lock: IO[str] | None) -> None:
        self._reader, self._writer, self._lock = reader, writer, lock
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="feedback writer", daemon=True)
        self._is_closed = False
        self._thread.start()

    def read(self, run: Callable[..., T], *args: Any, **options: Any) -> T:
        """What a function of a connection that cannot write returns."""
        with self._reader.connect() as connection:
            return run(connection, *args, **options)

    def write(self, run: Callable[..., T], *args: Any, **options: Any) -> T:
        """What a function of the writing connection returns, after COMMIT.

        Raises:
          whatever the function or COMMIT raises; nothing of the job is stored then.
        """
        if self._is_closed:
            raise content.Refusal("the database must be open; got a closed one.", 503)
        job = Job(lambda connection: run(connection, *args, **options), futures.Future())
        self._jobs.put(job)
        return job.result.result()

    def close(self) -> None:
        """Ends the writer after the jobs that wait."""
        if self._is_closed:
            return
        self._is_closed = True
        self._jobs.put(None)
        self._thread.join()
        self._writer.close()
        self._reader.dispose()
        if self._lock is not None:
            self._lock.close()

    def _work(self) -> None:
        while True:
            jobs = [self._jobs.get()]
            with contextlib.suppress(queue.Empty):
                while len(jobs) < BATCH:
                    jobs.append(self._jobs.get_nowait())
            self._commit([job for job in jobs if job is not None])
            if None in jobs:
                return

    def _commit(self, jobs: list[Job]) -> None:
        """Runs jobs in one transaction; where that fails as a whole, each in one of its own."""
        done: list[tuple[Job, Any, content.Refusal | None]] = []
        faults: list[Exception] = []  # the first is the cause: after it, savepoints may be gone
        try:
            with self._writer.begin():
                for job in jobs:
                    try:
                        with self._writer.begin_nested():
                            done.append((job, _result(job, self._writer, faults), None))
                    except content.Refusal as refusal:
                        done.append((job, None, refusal))
        except Exception as error:  # whoever waits gets it; the writer goes on
            with contextlib.suppress(Exception):  # SQLite may have rolled back by itself
                self._writer.rollback()
            if len(jobs) == 1:
                jobs[0].result.set_exception((*faults, error)[0])
                return
            for job in jobs:
                self._commit([job])
            return
        for job, result, refused in done:
            if refused is None:
                job.result.set_result(result)
            else:
                job.result.set_exception(refused)


def _result(job: Job, connection: Any, faults: list[Exception]) -> Any:
    try:
        return job.run(connection)
    except content.Refusal:
        raise
    except Exception as error:  # noted as the cause, and raised as it is
        faults.append(error)
        raise


def _locked(database: str) -> IO[str]:
    """A lock beside a file of SQLite; it ends with this process, however that ends.

    Raises:
      ValueError: another process has it.
    """
    import fcntl

    # Beside the file itself, whatever link it was named by; open as long as the lock is to last.
    lock = pathlib.Path(f"{pathlib.Path(database).resolve()}.writer").open("w")  # noqa: SIM115
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise _not_alone(database) from None
    return lock


def _not_alone(database: str) -> ValueError:
    return ValueError(
        f"--database must have one writer; got another alignjax process that writes to {database}. "
        "Stop it, or send judgements to its server."
    )


@contextlib.contextmanager
def opened(database: str, *, new: bool = False) -> Iterator[Database]:
    """A database to read and write, brought to this release's version.

    Args:
      database: a file of SQLite or a URL of Postgres. new: whether it may be made.

    Raises:
      ValueError: a package is missing, there is no such database, it is another program's or of a
        newer version, or another process writes to it; a fault of the database that the caller
        does not handle, such as a full disk.
    """
    check_extra()
    from alignjax.feedback import schema

    if not new:
        schema.check_there(database)
    lock = None
    with schema.plain_errors(database):
        writing, reading = (schema.make_engine(database, read_only=r) for r in (False, True))
        if not schema.is_url(database):
            _check_folder(database)
            lock = _locked(database)
        try:
            connection = writing.connect()
            with connection.begin():
                if schema.is_url(database) and not schema.is_alone(connection):
                    raise _not_alone(schema.shown(database))
                schema.migrate(connection, database)
        except BaseException:
            writing.dispose()
            if lock is not None:
                lock.close()
            raise
    own = Database(reading, connection, lock)
    try:
        with schema.plain_errors(database):
            yield own
    finally:
        own.close()
        writing.dispose()


def _check_folder(database: str) -> None:
    folder = pathlib.Path(database).parent
    if not database or not folder.is_dir() or pathlib.Path(database).is_dir():
        raise ValueError(
            f"--database must be a file in a folder that is there; got {database!r}. Name one."
        )


@contextlib.contextmanager
def read_only(database: str) -> Iterator[Callable[..., Any]]:
    """`read` of a database that another process may be writing to.

    Raises:
      ValueError: as of `opened`, but for the one writer.
    """
    check_extra()
    from alignjax.feedback import schema

    schema.check_there(database)
    engine = schema.make_engine(database, read_only=True)
    try:
        with schema.plain_errors(database), engine.connect() as connection:
            if schema.version_of(connection, database) != len(schema.MIGRATIONS):
                raise ValueError(
                    f"--database must be of version {len(schema.MIGRATIONS)}; got an older one "
                    f"({schema.shown(database)}). alignjax annotate or collect brings it there."
                )

            def read(run: Callable[..., T], *args: Any, **options: Any) -> T:
                return run(connection, *args, **options)

            yield read
    finally:
        engine.dispose()
