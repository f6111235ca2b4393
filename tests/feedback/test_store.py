"""The store: one writer, append-only rows, versions, and what it refuses."""

import importlib.util
import sqlite3
import subprocess
import sys
import threading

import pytest
import sqlalchemy as sa

from alignjax.feedback import content, database, project, schema
from alignjax.feedback.store import assignments, items, judgements, queries
from tests.commands import cli
from tests.feedback.conftest import ALONE, Desk, item, rows


@pytest.mark.parametrize("each", [15, pytest.param(200, marks=pytest.mark.slow)])
def test_eight_threads_lose_nothing(desk, place, each):
    raters = [desk.rater(f"rater {i}") for i in range(8)]
    for start in range(0, 8 * each, items.BATCH):
        desk.add(*[item(i) for i in range(start, min(start + items.BATCH, 8 * each))])
    faults = []

    def judge(rater: int) -> None:
        try:
            for k in range(each):
                held = desk.next(rater)
                desk.submit(held.id, rater, key=f"{k}")
                desk.db.read(queries.progress, rater, desk.time)
        except Exception as fault:
            faults.append(fault)

    threads = [threading.Thread(target=judge, args=(rater,)) for rater in raters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert rows(place, "select count(*), count(distinct assignment) from judgement") == [
        (8 * each, 8 * each)
    ]
    assert rows(place, "select count(distinct item) from assignment") == [(8 * each,)]


def test_a_refused_job_does_not_disturb_those_of_its_commit(desk):
    """All wait while the writer is held, so that they share one commit."""
    gate, results = threading.Event(), {}

    def insert(c, name):
        items.add_rater(c, name, 1.0)
        if name == "bad":
            raise content.Refusal("no")
        return name

    def job(name):
        try:
            results[name] = desk.db.write(insert, name)
        except content.Refusal as refusal:
            results[name] = str(refusal)

    threads = [threading.Thread(target=desk.db.write, args=(lambda c: gate.wait(5),))]
    threads += [threading.Thread(target=job, args=(name,)) for name in ("one", "bad", "two")]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert results == {"one": "one", "bad": "no", "two": "two"}
    names = {rater.name for rater in desk.db.read(queries.raters).values()}
    assert names == {"one", "two"}


def test_a_fault_of_one_job_is_its_own(desk):
    gate, results = threading.Event(), {}

    def job(name, value):
        try:
            results[name] = desk.db.write(
                lambda c: c.execute(schema.RATER.insert().values(**value)).rowcount
            )
        except sa.exc.IntegrityError:
            results[name] = "refused"

    good = {"name": "x", "kind": "person", "attributes": {}, "consent": False, "created": 1.0}
    threads = [threading.Thread(target=desk.db.write, args=(lambda c: gate.wait(5),))]
    threads += [
        threading.Thread(target=job, args=("good", good)),
        threading.Thread(target=job, args=("bad", {"name": None})),
    ]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert results == {"good": 1, "bad": "refused"}


@pytest.mark.parametrize("table", ["judgement", "project"])
@pytest.mark.parametrize("verb", ["UPDATE {} SET created = 0", "DELETE FROM {}"])
def test_evidence_is_never_changed(desk, place, table, verb):
    desk.add(item(1))
    desk.judge(desk.rater("r"))
    with pytest.raises(sqlite3.IntegrityError, match=f"{table} is append-only"):
        rows(place, verb.format(table))


def test_every_commit_is_on_disk(desk):
    modes = desk.db.write(
        lambda c: [c.exec_driver_sql(f"PRAGMA {n}").scalar() for n in ("journal_mode",
                                                                       "synchronous")]
    )  # fmt: skip
    assert modes == ["wal", 2]
    with pytest.raises(sa.exc.OperationalError, match="readonly"):
        desk.db.read(items.incident, "a", "b", 1.0)


def test_a_full_disk_loses_nothing_that_was_acknowledged(desk, place):
    """SQLite's own error for a full disk; the store goes on when there is room again."""
    rater = desk.rater("r")
    desk.add(*[item(i) for i in range(40)])
    acknowledged = {row["id"] for _, (row,) in [desk.judge(rater) for _ in range(3)]}
    limit = desk.db.write(
        lambda c: c.exec_driver_sql(
            f"PRAGMA max_page_count = {c.exec_driver_sql('PRAGMA page_count').scalar()}"
        ).scalar()
    )
    assert limit > 0
    faults = []
    for _ in range(30):
        try:
            held = desk.next(rater)
            long = {"kind": "rewrite", "payload": {"slot": 0, "text": "x" * 4000}}
            (row, _) = desk.submit(held.id, rater, more=[long])
            acknowledged.add(row["id"])
        except sa.exc.OperationalError as fault:
            faults.append(str(fault))
    assert faults
    assert all("full" in fault for fault in faults)
    there = {n for (n,) in rows(place, "select id from judgement where kind = 'choice'")}
    assert there == acknowledged
    desk.db.write(lambda c: c.exec_driver_sql("PRAGMA max_page_count = 1000000"))
    _, (row,) = desk.judge(rater)
    assert (row["id"],) in rows(place, "select id from judgement")


def test_an_id_is_a_hash_of_what_is_judged(desk):
    one, two = item(1), item(1)._replace(language="hi", source={"run": "x"})
    assert one.id == two.id != item(2).id
    assert len(one.id) == 64
    assert one.id != one._replace(candidates=one.candidates[::-1]).id
    assert desk.add(one, two, item(2)) == 2
    assert desk.add(one) == 0


def test_an_edit_is_a_revision(desk, place):
    desk.add(item(1))
    rater = desk.rater("r")
    held, (first,) = desk.judge(rater, {"choice": "first"})
    again = desk.undo(rater)
    assert again.id == held.id
    assert again.shown == held.shown
    assert desk.db.read(queries.counts) == {}
    (last,) = desk.submit(held.id, rater, {"choice": "second"})
    chain = rows(place, "select id, payload is null, supersedes from judgement order by id")
    assert chain == [(first["id"], 0, None), (2, 1, first["id"]), (last["id"], 0, 2)]
    live = [j for j in desk.db.read(lambda c: list(queries.judgements(c))) if j.is_live]
    assert [(j.id, j.payload["choice"]) for j in live] == [(last["id"], "second")]
    assert desk.db.read(queries.counts) == {"choice": 1}


def test_what_is_sent_twice_is_stored_once(desk, place):
    desk.add(item(1), item(2))
    rater, other = desk.rater("r"), desk.rater("s")
    held = desk.next(rater)
    first = desk.submit(held.id, rater, key="k")
    assert desk.submit(held.id, rater, key="k")[0]["id"] == first[0]["id"]
    assert rows(place, "select count(*) from judgement") == [(1,)]
    with pytest.raises(content.Refusal, match="must be open; got one that is done"):
        desk.submit(held.id, rater, key="another")
    theirs = desk.next(other)
    desk.submit(theirs.id, other, key="k")  # keys are each rater's own
    with pytest.raises(content.Refusal, match="another for every submission"):
        desk.submit(theirs.id, rater, key="k")
    with pytest.raises(content.Refusal, match="one of yours"):
        desk.submit(theirs.id, rater, key="new")


def test_tokens_are_not_stored(desk, place):
    token = "a-secret-token-of-24-chars"
    rater = desk.rater("asha", token=token)
    assert desk.db.read(queries.rater_of, token) == rater
    assert desk.db.read(queries.rater_of, "another") is None
    assert token.encode() not in b"".join(p.read_bytes() for p in _files(place))
    desk.db.write(items.revoke, ["someone"])
    assert desk.db.read(queries.rater_of, token) is None


def _files(place):
    import pathlib

    return [p for p in pathlib.Path(place).parent.iterdir() if p.is_file()]


def test_attributes_leave_with_consent_alone(desk):
    desk.rater("open", attributes={"group": "north"}, consent=True)
    desk.rater("closed", attributes={"group": "south"})
    shown = {r.name: r.attributes for r in desk.db.read(queries.raters).values()}
    assert shown == {"open": {"group": "north"}, "closed": {}}


def test_settings_are_kept_with_their_history(desk, place):
    desk.add(item(1))
    _, (row,) = desk.judge(desk.rater("r"))
    changed = project.Project(guideline="Be strict.")
    for _ in range(2):
        desk.db.write(items.set_project, changed, 5.0)
    assert desk.db.read(queries.settings) == changed
    shas = [sha for (sha,) in rows(place, "select guideline_sha from project order by id")]
    assert shas == [row["guideline_sha"], changed.guideline_sha]


def test_a_second_writer_is_refused_and_a_reader_is_not(desk, place):
    desk.rater("r")
    script = (
        "from alignjax.feedback import database\n"
        "from alignjax.feedback.store import queries\n"
        f"with database.read_only({place!r}) as read: print(len(read(queries.raters)))\n"
        "try:\n"
        f"    with database.opened({place!r}): print('two writers')\n"
        "except ValueError as error: print(error)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], env=cli.environment(), capture_output=True, text=True,
        check=True,
    ).stdout.splitlines()  # fmt: skip
    assert out[0] == "1"
    assert out[1].startswith("--database must have one writer; got another alignjax process")


def test_a_link_to_the_file_is_the_same_database(desk, place, tmp_path):
    link = tmp_path / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(place)
    with pytest.raises(ValueError, match="must have one writer"), database.opened(str(link)):
        pass


def test_no_name_means_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with database.opened(":memory:", new=True) as db:
        Desk(db).add(item(1))
    assert rows(tmp_path / ":memory:", "select count(*) from item") == [(1,)]


def test_a_fault_that_nobody_handles_is_one_line(place):
    def fill():
        with database.opened(place, new=True) as db:
            desk = Desk(db)
            pages = db.read(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar())
            db.write(lambda c: c.exec_driver_sql(f"PRAGMA max_page_count = {pages}"))
            desk.add(*[item(i) for i in range(2000)])

    with pytest.raises(ValueError, match="got database or disk is full") as caught:
        fill()
    assert "\n" not in str(caught.value)
    assert rows(place, "select count(*) from item") == [(0,)]


def test_a_missing_package_is_told(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "sqlalchemy" else real(name)
    )
    with pytest.raises(ValueError, match=r"got no sqlalchemy\. Run pip install"):
        database.check_extra()


def test_a_closed_database_takes_nothing(place):
    with database.opened(place, new=True) as db:
        pass
    with pytest.raises(content.Refusal, match="open"):
        db.write(lambda c: 1)


def _sqlite(place, *statements):
    connection = sqlite3.connect(place)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_databases_of_others_are_refused(tmp_path):
    other, text = str(tmp_path / "other.db"), tmp_path / "text.db"
    _sqlite(other, "create table annotations (id integer)")
    text.write_text("no database\n" * 200)
    for place, says in (
        (other, "must be one of alignjax or empty; got tables annotations"),
        (str(text), "must be read and written; got file is not a database"),
        (str(tmp_path / "none" / "a.db"), "must be a file in a folder that is there"),
        (str(tmp_path), "must be a file in a folder"),
        ("mysql://u@h/d", "must be a file of SQLite or a URL of Postgres; got mysql"),
    ):
        with pytest.raises(ValueError, match=says), database.opened(place, new=True):
            pass
    assert rows(other, "select name from sqlite_master") == [("annotations",)]
    with pytest.raises(ValueError, match="must be there"), database.read_only("nowhere.db"):
        pass


def test_a_newer_version_is_refused(place):
    with database.opened(place, new=True):
        pass
    _sqlite(place, "update alignjax_feedback set version = 99")
    for use in (database.opened, database.read_only):
        with pytest.raises(ValueError, match="must be of version 1 to 2; got 99"), use(place):
            pass


def test_migrations_go_forward_and_keep_rows(place, monkeypatch):
    with database.opened(place, new=True) as db:
        desk = Desk(db)
        desk.add(item(1))

    def second(connection):
        connection.exec_driver_sql("ALTER TABLE item ADD COLUMN topic TEXT")

    monkeypatch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, second])
    with pytest.raises(ValueError, match="got an older one"), database.read_only(place):
        pass
    with database.opened(place) as db:
        assert db.read(queries.totals)["item"] == 1
    assert rows(place, "select version, topic from alignjax_feedback, item") == [(3, None)]


def test_a_migration_that_fails_changes_nothing(place, monkeypatch):
    with database.opened(place, new=True):
        pass

    def broken(connection):
        connection.exec_driver_sql("ALTER TABLE item ADD COLUMN topic TEXT")
        connection.exec_driver_sql("no SQL")

    monkeypatch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, broken])
    with pytest.raises(ValueError, match="syntax error"), database.opened(place):
        pass
    assert rows(place, "select version from alignjax_feedback") == [(2,)]
    assert "topic" not in str(rows(place, "select sql from sqlite_master where name = 'item'"))


def test_times_never_go_back(desk, place):
    """A machine's clock that was set back frees no lease early and holds none for days."""
    desk.time = 10_000.0
    desk.add(item(1))
    rater = desk.rater("r")
    desk.judge(rater)
    latest = desk.db.read(queries.latest)
    assert latest == 10_000.0
    clock = database.Clock(latest, wall=4_000.0)
    assert clock.moved_back == 6_000.0
    assert 10_000.0 <= clock.now() < 10_005.0
    assert database.Clock(latest, wall=20_000.0).moved_back == 0


@pytest.mark.parametrize("text", ["", "   ", "a\0b", "\ud83d", 7, "x" * 100_001])
def test_answers_that_cannot_be_kept_are_refused(text):
    with pytest.raises(content.Refusal) as caught:
        content.checked(item(1)._replace(candidates=(content.Candidate(text),)), "file, line 3")
    assert "answer 1 (file, line 3) must" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_items_that_cannot_be_judged_are_refused():
    same = content.Candidate("same")
    for candidates, says in (
        ((), "must have an answer; got none"),
        ((same, same), "must differ"),
        (tuple(content.Candidate(str(i)) for i in range(10)), "at most 9 answers; got 10"),
        (tuple(content.Candidate(f"{i}" + "x" * 90_000) for i in range(5)), "at most 400000"),
    ):
        with pytest.raises(content.Refusal, match=says):
            content.checked(item(1)._replace(candidates=candidates), "f")


def test_judgements_and_sent_are_plain():
    assert judgements.Sent("k", []).seconds is None
    assert assignments.OPEN != assignments.LOST
    assert ALONE.asked(2) == ("choice",)
    assert ALONE.asked(4) == ("ranking",)
    assert ALONE.asked(1) == ("score",)
