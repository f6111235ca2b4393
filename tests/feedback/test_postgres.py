"""The same store on a Postgres server: one of ALIGNJAX_POSTGRES, or one of its own started here."""

import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import pytest

from alignjax.feedback import content, database, harvest, project
from alignjax.feedback.store import assignments, items, queries
from tests.commands import cli
from tests.feedback.conftest import ALONE, Desk, item

pytestmark = pytest.mark.postgres
pytest.importorskip("psycopg", reason="no psycopg: pip install 'alignjax[postgres]'")


def _programs() -> pathlib.Path | None:
    """The folder of Postgres' own programs."""
    found = shutil.which("initdb")
    folders = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return pathlib.Path(found).parent if found else folders[-1].parent if folders else None


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The URL of a server on which databases may be made."""
    given = os.environ.get("ALIGNJAX_POSTGRES", "")
    if given:
        yield given.rstrip("/")
        return
    programs = _programs()
    if programs is None:
        pytest.skip("no Postgres: neither ALIGNJAX_POSTGRES nor initdb is there")
    folder = pathlib.Path(f"/tmp/alignjax-postgres-{os.getpid()}")
    folder.mkdir()
    user = {}
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres")
        user = {"user": "postgres"}
    data = folder / "data"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    try:
        made = [programs / "initdb", "-D", data, "-U", "alignjax", "-A", "trust", "-N"]
        subprocess.run(made, check=True, **user, **quiet)
        options = f"-k {folder} -c listen_addresses="
        process = subprocess.Popen([programs / "postgres", "-D", data, *options.split()],
                                   **user, **quiet)  # fmt: skip
        try:
            for _ in range(200):
                if (folder / ".s.PGSQL.5432").exists():
                    break
                time.sleep(0.1)
            time.sleep(0.5)
            yield f"postgresql://alignjax@/postgres?host={folder}"
        finally:
            process.terminate()
            process.wait()
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def place(server):
    """The URL of an empty database."""
    from sqlalchemy import create_engine, make_url, text

    url = make_url(server).set(drivername="postgresql+psycopg")
    name = f"t{time.monotonic_ns()}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield url.set(drivername="postgresql", database=name).render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture
def desk(place):
    with database.opened(place, new=True) as db:
        yield Desk(db)


def test_eight_threads_lose_nothing(desk):
    raters = [desk.rater(f"rater {i}") for i in range(8)]
    desk.add(*[item(i) for i in range(160)])
    faults = []

    def judge(rater):
        try:
            for k in range(20):
                desk.submit(desk.next(rater).id, rater, key=f"{k}")
                desk.db.read(queries.progress, rater, desk.time)
        except Exception as fault:
            faults.append(fault)

    threads = [threading.Thread(target=judge, args=(rater,)) for rater in raters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert desk.db.read(queries.totals)["judgement"] == 160
    assert desk.db.read(queries.counts) == {"choice": 160}


def test_leases_undo_and_what_is_sent_twice(desk):
    desk.add(item(1))
    one, two = desk.rater("one"), desk.rater("two", token="token-of-rater-two")
    held = desk.next(one)
    desk.db.write(assignments.heartbeat, held.id, one, ALONE, desk.time, {"choice": "tie"})
    assert desk.next(two) is None
    desk.time += 31 * 60
    assert desk.next(two).item == held.item
    with pytest.raises(content.Refusal, match="went to another"):
        desk.submit(held.id, one)
    held, (row,) = desk.judge(two, key="k")
    assert desk.submit(held.id, two, key="k")[0]["id"] == row["id"]
    assert desk.undo(two).id == held.id
    desk.submit(held.id, two, {"choice": "both_bad"})
    judged = desk.db.read(lambda c: list(queries.judgements(c)))
    assert [(j.is_live, j.payload and j.payload["choice"]) for j in judged] == [
        (False, "first"), (False, None), (True, "both_bad"),
    ]  # fmt: skip
    assert desk.db.read(queries.rater_of, "token-of-rater-two") == two
    assert desk.db.read(queries.latest) == desk.time


def test_gold_and_repeats(desk):
    desk.project = project.Project(gold=0.2, repeats=0.2, overlap=0.0)
    known = [item(100 + i, gold={"choice": {"chosen": 0}}) for i in range(4)]
    desk.add(*[item(i) for i in range(20)], *known)
    rater, held = desk.rater("r"), []
    while (own := desk.next(rater)) is not None:
        desk.submit(own.id, rater)
        held.append(own)
    assert sum(own.repeat for own in held) >= 2
    assert sum(own.item in {k.id for k in known} for own in held) >= 3
    assert desk.db.read(queries.counts) == {"choice": 20}


@pytest.mark.parametrize("statement", ["UPDATE judgement SET created = 0", "DELETE FROM project"])
def test_evidence_is_never_changed(desk, statement):
    from sqlalchemy import exc

    desk.add(item(1))
    desk.judge(desk.rater("r"))
    with pytest.raises(exc.DBAPIError, match="append-only"):
        desk.db.write(lambda c: c.exec_driver_sql(statement))
    assert desk.db.read(queries.totals)["judgement"] == 1


def test_harvest_while_the_server_writes(desk, place, tmp_path):
    desk.add(*[item(i) for i in range(10)])
    rater = desk.rater("r")
    for _ in range(10):
        desk.judge(rater)
    with database.read_only(place) as read:
        made = harvest.harvest(read, tmp_path / "out", holdout=0.0)
    assert made.files["pairs.train.jsonl"] == 10


def test_a_second_writer_is_refused(desk, place):
    script = (
        "from alignjax.feedback import database\n"
        "try:\n"
        f"    with database.opened({place!r}): print('two writers')\n"
        "except ValueError as error: print(error)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], env=cli.environment(), capture_output=True, text=True,
        check=True,
    ).stdout  # fmt: skip
    assert out.startswith("--database must have one writer; got another alignjax process")
    assert out.count("\n") == 1


def test_another_programs_database_is_refused(place):
    from sqlalchemy import create_engine, make_url

    engine = create_engine(make_url(place).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE annotations (id integer)")
    engine.dispose()
    with pytest.raises(ValueError, match="got tables annotations"), \
            database.opened(place, new=True):  # fmt: skip
        pass
    with pytest.raises(ValueError, match="must be read and written") as caught, \
            database.opened("postgresql://u:secret@127.0.0.1:1/x", new=True):  # fmt: skip
        pass
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert items.BATCH == 500
