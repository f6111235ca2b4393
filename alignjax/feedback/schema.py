"""The tables, their version, and connections. SQLAlchemy is imported here and in `store` alone."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc

META = sa.MetaData()
TEXT, REAL = sa.Text, sa.Double
PROJECT = sa.Table(
    "project", META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("settings", TEXT, nullable=False),
    sa.Column("guideline_sha", TEXT, nullable=False),
    sa.Column("created", REAL, nullable=False),
)  # fmt: skip
ITEM = sa.Table(
    "item", META,
    sa.Column("id", TEXT, primary_key=True),
    sa.Column("turns", sa.JSON, nullable=False),
    sa.Column("language", TEXT, nullable=False),
    sa.Column("gold", sa.JSON(none_as_null=True)),
    sa.Column("source", sa.JSON(none_as_null=True)),
    sa.Column("target", sa.Integer, nullable=False),
    sa.Column("is_open", sa.Boolean, nullable=False),  # whether raters are missing
    sa.Column("shuffle", REAL, nullable=False),
    sa.Column("created", REAL, nullable=False),
    sa.Index("item_open", "is_open", "shuffle"),
)  # fmt: skip
CANDIDATE = sa.Table(
    "candidate", META,
    sa.Column("item", sa.ForeignKey("item.id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("text", TEXT, nullable=False),
    sa.Column("model", TEXT, nullable=False),
    sa.Column("logprob", REAL),
)  # fmt: skip
RATER = sa.Table(
    "rater", META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", TEXT, nullable=False, unique=True),
    sa.Column("kind", TEXT, nullable=False),  # person, judge, rule, simulated
    sa.Column("token_hash", TEXT, unique=True),
    sa.Column("attributes", sa.JSON, nullable=False),
    sa.Column("consent", sa.Boolean, nullable=False),  # whether attributes may leave
    sa.Column("created", REAL, nullable=False),
)  # fmt: skip
ASSIGNMENT = sa.Table(
    "assignment", META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("item", sa.ForeignKey("item.id"), nullable=False),
    sa.Column("rater", sa.ForeignKey("rater.id"), nullable=False),
    sa.Column("repeat", sa.Integer, nullable=False),
    sa.Column("shown", sa.JSON, nullable=False),  # the answers' numbers in the order on the page
    sa.Column("size", sa.Integer, nullable=False),  # how many answers
    sa.Column("state", TEXT, nullable=False),  # open, done, skipped, lost, judged
    sa.Column("lease", REAL, nullable=False),  # until when it is kept, seconds of the clock
    sa.Column("finished", REAL),
    sa.Column("draft", sa.JSON(none_as_null=True)),
    sa.Column("note", TEXT, nullable=False),  # why it was skipped
    sa.UniqueConstraint("item", "rater", "repeat"),
    sa.Index("assignment_rater", "rater", "state"),
    sa.Index("assignment_size", "rater", "size"),
)  # fmt: skip
JUDGEMENT = sa.Table(
    "judgement", META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("assignment", sa.ForeignKey("assignment.id"), nullable=False),
    sa.Column("submission", TEXT, nullable=False),  # of all kinds that were sent at once
    sa.Column("kind", TEXT, nullable=False),
    sa.Column("payload", sa.JSON(none_as_null=True)),  # null takes the one before back
    sa.Column("reason", TEXT, nullable=False),
    sa.Column("seconds", REAL),
    sa.Column("guideline_sha", TEXT, nullable=False),
    sa.Column("created", REAL, nullable=False),
    sa.Column("supersedes", sa.ForeignKey("judgement.id"), unique=True),
    sa.UniqueConstraint("submission", "kind"),
    # One chain of revisions for each kind of an assignment.
    sa.Index("judgement_first", "assignment", "kind", unique=True,
             sqlite_where=sa.text("supersedes IS NULL"),
             postgresql_where=sa.text("supersedes IS NULL")),
)  # fmt: skip
INCIDENT = sa.Table(
    "incident", META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("kind", TEXT, nullable=False),
    sa.Column("detail", TEXT, nullable=False),
    sa.Column("created", REAL, nullable=False),
)  # fmt: skip
EXCHANGE = sa.Table(
    "exchange", META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("digest", TEXT, nullable=False),  # of the turns, which may not be kept
    sa.Column("turns", sa.JSON(none_as_null=True)),
    sa.Column("language", TEXT, nullable=False),
    sa.Column("stage", TEXT, nullable=False),  # before, answer
    sa.Column("scores", sa.JSON, nullable=False),  # {category: probability or null}
    sa.Column("blocked", sa.Boolean, nullable=False),
    sa.Column("error", TEXT, nullable=False),
    sa.Column("stratum", TEXT, nullable=False),
    sa.Column("probability", REAL, nullable=False),  # with which it was taken for review
    sa.Column("guard", TEXT, nullable=False),
    sa.Column("shuffle", REAL, nullable=False),
    sa.Column("is_open", sa.Boolean, nullable=False),  # whether it waits for a verdict
    sa.Column("holder", sa.ForeignKey("rater.id")),
    sa.Column("lease", REAL, nullable=False),
    sa.Column("created", REAL, nullable=False),
    sa.Index("exchange_open", "is_open", "shuffle"),
)  # fmt: skip
VERDICT = sa.Table(
    "verdict", META,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("exchange", sa.ForeignKey("exchange.id"), nullable=False),
    sa.Column("rater", sa.ForeignKey("rater.id"), nullable=False),
    sa.Column("submission", TEXT, nullable=False, unique=True),
    sa.Column("labels", sa.JSON(none_as_null=True)),  # {category: whether}; null takes it back
    sa.Column("note", TEXT, nullable=False),
    sa.Column("seconds", REAL),
    sa.Column("created", REAL, nullable=False),
    sa.Column("supersedes", sa.ForeignKey("verdict.id"), unique=True),
)  # fmt: skip
TRAFFIC = sa.Table(
    "traffic", META,  # how many exchanges there were, whether or not they are kept
    sa.Column("hour", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("language", TEXT, primary_key=True),
    sa.Column("stage", TEXT, primary_key=True),
    sa.Column("stratum", TEXT, primary_key=True),
    sa.Column("category", TEXT, primary_key=True),  # that blocked; "" counts each exchange once
    sa.Column("count", sa.Integer, nullable=False),
)  # fmt: skip
# By which a database says that it is one of ours, and of which version.
VERSION = sa.Table(
    "alignjax_feedback", sa.MetaData(), sa.Column("version", sa.Integer, nullable=False)
)
APPEND_ONLY = ("project", "judgement")


def _first(connection: sa.Connection) -> None:
    """Version 1: tables of judgements, which are never changed."""
    later = (EXCHANGE, VERDICT, TRAFFIC)
    META.create_all(connection, [table for table in META.sorted_tables if table not in later])
    _append_only(connection, APPEND_ONLY)


def _second(connection: sa.Connection) -> None:
    """Version 2: what a guard judged, and the verdicts of people on it, which are never changed."""
    META.create_all(connection, [EXCHANGE, VERDICT, TRAFFIC])
    _append_only(connection, ("verdict",))


def _append_only(connection: sa.Connection, names: tuple[str, ...]) -> None:
    """Makes the database refuse changes of rows."""
    for name in names:
        if connection.dialect.name == "sqlite":
            for verb in ("UPDATE", "DELETE"):
                connection.exec_driver_sql(
                    f"CREATE TRIGGER {name}_no_{verb.lower()} BEFORE {verb} ON {name} "
                    f"BEGIN SELECT RAISE(ABORT, '{name} is append-only'); END"
                )
            continue
        connection.exec_driver_sql(
            f"CREATE OR REPLACE FUNCTION {name}_append_only() RETURNS trigger AS $$ BEGIN "
            f"RAISE EXCEPTION '{name} is append-only'; END $$ LANGUAGE plpgsql"
        )
        connection.exec_driver_sql(
            f"CREATE TRIGGER {name}_append_only BEFORE UPDATE OR DELETE ON {name} "
            f"FOR EACH ROW EXECUTE FUNCTION {name}_append_only()"
        )


# MIGRATIONS[n] takes a database from version n to n + 1; there is no way back.
MIGRATIONS: list[Callable[[sa.Connection], None]] = [_first, _second]


def is_url(database: str) -> bool:
    """Whether a database is named by a URL; else it is a file of SQLite."""
    return "://" in database


def shown(database: str) -> str:
    """The database's name without a password."""
    return str(sa.make_url(database)) if is_url(database) else database


def make_engine(database: str, *, read_only: bool = False) -> sa.Engine:
    """An engine for a file of SQLite or a URL of Postgres.

    Raises:
      ValueError: another kind of database, or its driver is not installed.
    """
    if not is_url(database):
        place = str(pathlib.Path(database).absolute())  # so that no name means memory
        engine = sa.create_engine(
            sa.URL.create("sqlite", database=place), connect_args={"timeout": 10}
        )
        _prepare_sqlite(engine, read_only)
        return engine
    try:
        url = sa.make_url(database)
        if url.get_backend_name() not in ("postgresql", "postgres"):
            raise exc.ArgumentError(url.get_backend_name())
        return sa.create_engine(url.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    except exc.ArgumentError as error:
        raise ValueError(
            f"--database must be a file of SQLite or a URL of Postgres; got {error!s:.80}. Write "
            "postgresql://USER@HOST/NAME."
        ) from None
    except ImportError:
        raise ValueError(
            "--database of Postgres must have its driver; got none. Run pip install "
            "'alignjax[postgres]'."
        ) from None


def _prepare_sqlite(engine: sa.Engine, read_only: bool) -> None:
    """A commit is on disk when it returns; readers never wait for the writer."""

    @event.listens_for(engine, "connect")
    def connect(raw: Any, record: Any) -> None:
        raw.isolation_level = None  # so that BEGIN is ours
        raw.execute("PRAGMA foreign_keys = ON")
        if read_only:
            raw.execute("PRAGMA query_only = ON")
        else:
            raw.execute("PRAGMA journal_mode = WAL")
            raw.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


@contextlib.contextmanager
def plain_errors(database: str) -> Iterator[None]:
    """Errors of the database become ValueErrors of one line."""
    try:
        yield
    except (exc.DBAPIError, exc.SQLAlchemyError) as error:
        lines = str(getattr(error, "orig", None) or error).strip().splitlines()
        cause = lines[0] if lines else type(error).__name__
        raise ValueError(
            f"--database must be read and written; got {cause} ({shown(database)}). What was "
            "acknowledged is stored."
        ) from None


def check_there(database: str) -> None:
    """Raises ValueError where a file of SQLite does not exist."""
    if not is_url(database) and not pathlib.Path(database).is_file():
        raise ValueError(
            f"--database must be there; got {database!r}, no file. Make it by alignjax collect."
        )


def version_of(connection: sa.Connection, database: str) -> int:
    """The version of a database; 0 of an empty one.

    Raises:
      ValueError: it is another program's, or of a newer version.
    """
    known = len(MIGRATIONS)
    names = sa.inspect(connection).get_table_names()
    if VERSION.name not in names:
        if names:
            raise ValueError(
                f"--database must be one of alignjax or empty; got tables {', '.join(names)[:80]} "
                f"({shown(database)}). Name another file."
            )
        return 0
    version = connection.execute(sa.select(VERSION.c.version)).scalar()
    if not isinstance(version, int) or not 1 <= version <= known:
        raise ValueError(
            f"--database must be of version 1 to {known}; got {version} ({shown(database)}). "
            "Use the release of alignjax that wrote it, or a newer one."
        )
    return version


def migrate(connection: sa.Connection, database: str) -> None:
    """Takes a database to this release's version, in the transaction of the caller.

    Raises:
      ValueError: as of `version_of`.
    """
    version = version_of(connection, database)
    if version == 0:
        VERSION.create(connection)
        connection.execute(VERSION.insert().values(version=0))
    for step in MIGRATIONS[version:]:
        step(connection)
    if version < len(MIGRATIONS):
        connection.execute(VERSION.update().values(version=len(MIGRATIONS)))


def is_alone(connection: sa.Connection) -> bool:
    """Whether no other process writes to a Postgres database; held until the connection ends."""
    held = connection.exec_driver_sql("SELECT pg_try_advisory_lock(7305216)").scalar()
    return bool(held)
