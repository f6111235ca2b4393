"""The HTTP interface: what raters, people or simulated, may ask and send."""

import json
import threading

import pytest
from starlette import testclient

from alignjax.feedback import content, database, project
from alignjax.feedback.store import items, queries
from alignjax.web import api, app
from tests.feedback.conftest import ALONE, item, rows

TOKENS = {"one": "token-of-rater-one", "two": "token-of-rater-two"}


class Client:
    """Raters of an application that is not served."""

    def __init__(self, db, own, alone=None):
        service = api.Service(db, own, database.Clock(0.0), alone)
        self.http = testclient.TestClient(
            app.make_app(service, ("testserver",)), raise_server_exceptions=False
        )

    def post(self, name, rater="one", **sent):
        token = {"authorization": f"Bearer {TOKENS[rater]}"} if rater else {}
        return self.http.post(f"/api/{name}", json=sent, headers=token)

    def judge(self, rater="one", payload=None, kind="choice", **more):
        held = self.post("next", rater).json()
        return self.post(
            "submit", rater, assignment=held["assignment"], key=f"k{held['assignment']}",
            judgements=[{"kind": kind, "payload": payload or {"choice": "first"}}], **more,
        )  # fmt: skip


@pytest.fixture
def database_of(place):
    with database.opened(place, new=True) as db:
        for name, token in TOKENS.items():
            db.write(items.add_rater, name, 1.0, token=token)
        yield db


@pytest.fixture
def client(database_of):
    def make(given=3, own=ALONE):
        given = [item(i) for i in range(given)] if isinstance(given, int) else given
        database_of.write(items.add_items, given, own, 1.0)
        return Client(database_of, own)

    return make


def test_an_item_is_shown_blind(client):
    own = client()
    held = own.post("next").json()
    assert held["turns"] == [{"role": "human", "text": held["turns"][0]["text"]}]
    assert len(held["answers"]) == 2
    assert (held["ask"], held["also"]) == (["choice"], ["rewrite", "spans", "flags"])
    assert held["progress"] == {"done": 0, "skipped": 0, "left": 3}
    assert 0 < held["seconds_left"] <= 1800
    assert "model" not in json.dumps(held)
    assert "order" not in held
    assert "shown" not in held


def test_answers_stand_in_the_stored_order(client, place):
    own = client(8)
    for _ in range(8):
        held = own.post("next").json()
        ((shown,),) = rows(place, f"select shown from assignment where id = {held['assignment']}")
        texts = [t for (t,) in rows(place, "select text from candidate where item = "
                                           f"'{held['item']}' order by number")]  # fmt: skip
        assert held["answers"] == [texts[n] for n in json.loads(shown)]
        stored = own.judge(payload={"choice": "second"}).json()["stored"][0]
        assert texts[stored["payload"]["chosen"]] == held["answers"][1]


def test_what_was_stored_comes_back_after_the_commit(client, place):
    own = client()
    answer = own.judge(seconds=2.5).json()
    (row,) = answer["stored"]
    assert rows(place, "select id, kind, seconds from judgement") == [(row["id"], "choice", 2.5)]
    assert answer["progress"] == {"done": 1, "skipped": 0, "left": 2}


def test_two_raters_never_hold_one_item_and_may_race_for_it(client, place):
    own = client(40)
    seen = {"one": [], "two": []}

    def work(rater):
        while (held := own.post("next", rater).json())["assignment"]:
            seen[rater].append(held["item"])
            assert own.judge(rater).status_code == 200

    threads = [threading.Thread(target=work, args=(rater,)) for rater in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not set(seen["one"]) & set(seen["two"])
    assert len(seen["one"]) + len(seen["two"]) == 40
    assert rows(place, "select count(*) from judgement") == [(40,)]


def test_drafts_skips_and_undo(client):
    own = client(2)
    held = own.post("next").json()
    draft = {"choice": "first", "reason": "x"}
    beat = own.post("heartbeat", assignment=held["assignment"], draft=draft)
    assert beat.json()["seconds_left"] > 1790
    assert own.post("next").json()["draft"] == draft
    assert own.post("skip", assignment=held["assignment"], reason="r").status_code == 200
    assert own.post("next").json()["item"] != held["item"]
    assert own.post("undo").json()["item"] == held["item"]
    headers = {"authorization": f"Bearer {TOKENS['one']}"}
    assert own.http.get("/api/progress", headers=headers).json() == {
        "done": 0, "skipped": 0, "left": 2,
    }  # fmt: skip
    assert own.post("undo", "two").status_code == 404


@pytest.mark.parametrize(("token", "says"), [("", "got none"), ("wrong", "got an unknown one")])
def test_who_has_no_token_is_nobody(client, token, says):
    own = client()
    for name in (*api.READS, *api.WRITES):
        method = "GET" if name in api.READS else "POST"
        headers = {"content-type": "application/json"}
        headers |= {"authorization": f"Bearer {token}"} if token else {}
        answer = own.http.request(method, f"/api/{name}", headers=headers, content="{}")
        assert answer.status_code == 401
        assert says in answer.json()["error"]
    page = own.http.get("/")
    assert page.status_code == 401
    assert "Your token" in page.text
    assert "question" not in page.text


def test_a_token_in_the_address_becomes_a_cookie(client):
    own = client()
    answer = own.http.get(f"/?token={TOKENS['one']}", follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert own.http.get("/").status_code == 200
    assert own.post("next", rater="").json()["assignment"] is not None
    assert own.http.get("/?token=wrong", cookies={}).status_code == 401


def test_one_rater_at_home_needs_no_token(client, database_of):
    client()
    alone = database_of.write(items.rater_named, "me", 1.0)
    own = Client(database_of, ALONE, alone)
    assert own.judge(rater="").json()["stored"][0]["payload"]["choice"] == "first"
    held = own.post("next", rater="").json()
    assert held["assignment"] is not None
    wrong = own.http.post("/api/next", json={}, headers={"authorization": "Bearer wrong-token"})
    assert wrong.status_code == 401


@pytest.mark.parametrize(("judgement", "says"), [
    ({"kind": "vote", "payload": {}}, "kind must be one of choice"),
    ({"kind": "choice", "payload": []}, "must be an object"),
    ({"kind": "choice", "payload": {"choice": "third"}}, "one of first, second, tie, both_bad"),
    ({"kind": "choice", "payload": {"choice": "skip"}}, "one of first, second, tie, both_bad"),
    ({"kind": "choice", "payload": {"choice": "tie", "strength": 2}}, "with a chosen answer"),
    ({"kind": "choice", "payload": {"choice": "first", "strength": 4}}, "must be 1, 2 or 3"),
    ({"kind": "choice", "payload": {"choice": "first", "note": 1}}, "have the fields choice"),
    ({"kind": "rewrite", "payload": {"slot": 0, "text": "x"}}, "must hold choice"),
    ({"kind": "choice", "payload": {"choice": "first"}, "reason": "\ud83d"}, "lone surrogate"),
    ({"kind": "choice", "payload": {"choice": "first"}, "reason": "a\0"}, "no NUL"),
    ({"kind": "choice", "payload": {"choice": "first"}, "mood": 1}, "kind, payload, reason"),
    ("first", "must be an object"),
])  # fmt: skip
def test_judgements_that_are_none_are_refused(client, place, judgement, says):
    own = client()
    held = own.post("next").json()
    sent = json.dumps({"assignment": held["assignment"], "key": "k", "judgements": [judgement]})
    answer = own.http.post(
        "/api/submit", content=sent,
        headers={"authorization": f"Bearer {TOKENS['one']}", "content-type": "application/json"},
    )  # fmt: skip
    assert answer.status_code == 400
    assert says in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert rows(place, "select count(*) from judgement") == [(0,)]


EVERY = project.Project(ask=("flags",), also=project.KINDS, overlap=0.0, gold=0.0, repeats=0.0)
CRICKET = content.Item((("human", "q"),), (content.Candidate("😀😀 नमस्ते"), content.Candidate("b")))


def _slot(held):
    return held["answers"].index("😀😀 नमस्ते")


def _everything(own, *more):
    held = own.post("next").json()
    slot = _slot(held)
    given = [{"kind": "flags", "payload": {"flags": ["unsafe"]}}, *(build(slot) for build in more)]
    return own.post("submit", assignment=held["assignment"], key="k", judgements=given)


def test_spans_count_code_points(client):
    own = client([CRICKET], EVERY)
    span = {"start": 0, "end": 2, "text": "😀😀", "type": "wrong"}
    utf16 = {"start": 0, "end": 4, "text": "😀😀", "type": "wrong"}
    answer = _everything(
        own, lambda s: {"kind": "spans", "payload": {"spans": [{**utf16, "slot": s}]}}
    )
    assert answer.status_code == 400
    assert "Count code points, not UTF-16 units" in answer.json()["error"]
    beyond = {**utf16, "end": 40}
    answer = _everything(
        own, lambda s: {"kind": "spans", "payload": {"spans": [{**beyond, "slot": s}]}}
    )
    assert "within its answer's 9 code points" in answer.json()["error"]
    answer = _everything(
        own, lambda s: {"kind": "spans", "payload": {"spans": [{**span, "slot": s}]}}
    )
    assert answer.json()["stored"][1]["payload"]["spans"] == [
        {"answer": 0, **span, "note": "", "correction": ""}
    ]


@pytest.mark.parametrize(("kind", "payload", "says"), [
    ("ranking", {"ranks": [1]}, "list of 2"), ("ranking", {"ranks": [None, None]}, "rank one"),
    ("ranking", {"ranks": [1, 3]}, "from 1 to 2, or null; got 3"),
    ("ranking", {"ranks": [True, 2]}, "got True"),
    ("score", {"scores": {"speed": [1, 2]}}, "have the scales helpfulness"),
    ("score", {"scores": {"helpfulness": [8, 1]}}, "from 1 to 7, or null; got 8"),
    ("score", {"scores": {"helpfulness": [None, None]}}, "must score an answer"),
    ("rewrite", {"slot": 2, "text": "x"}, "slot must be from 0 to 1; got 2"),
    ("rewrite", {"slot": 0, "text": "x" * 200_000}, "at most 100000 bytes; got 200000"),
    ("spans", {"spans": []}, "list of 1 to 200"), ("flags", {"flags": ["bad"]}, "among unsafe"),
    ("spans", {"spans": [{"slot": 0, "start": 0, "end": 1, "text": "x", "type": "odd"}]},
     "must be that of code points"),
])  # fmt: skip
def test_every_kind_has_its_rules(client, kind, payload, says):
    own = client([CRICKET], EVERY)
    held = own.post("next").json()
    given = [{"kind": kind, "payload": payload}]
    given += [] if kind == "flags" else [{"kind": "flags", "payload": {"flags": ["unsafe"]}}]
    answer = own.post("submit", assignment=held["assignment"], key="k", judgements=given)
    assert answer.status_code in (400, 413)
    assert says in answer.json()["error"]


def test_a_rewrite_must_change_something(client):
    own = client([CRICKET], EVERY)
    answer = _everything(
        own, lambda s: {"kind": "rewrite", "payload": {"slot": s, "text": "😀😀 नमस्ते"}}
    )
    assert "must differ from the answer" in answer.json()["error"]


def test_kinds_come_once_and_are_asked_for(client):
    own = client()
    held = own.post("next").json()
    choice = {"kind": "choice", "payload": {"choice": "first"}}
    for given, says in (
        ([choice, choice], "each kind once"), ([], "list of some"), (None, "list of some"),
        ([choice, {"kind": "score", "payload": {"scores": {"helpfulness": [1, 2]}}}],
         "nothing but choice, rewrite, spans, flags; got choice, score"),
    ):  # fmt: skip
        answer = own.post("submit", assignment=held["assignment"], key="k", judgements=given)
        assert answer.status_code == 400
        assert says in answer.json()["error"]
    flag = [{"kind": "flags", "payload": {"flags": ["cannot judge"]}}]
    answer = own.post("submit", assignment=held["assignment"], key="k", judgements=flag)
    assert [row["kind"] for row in answer.json()["stored"]] == ["flags"]


@pytest.mark.parametrize(("name", "fields"), [
    ("submit", {"assignment": "1"}), ("submit", {}), ("heartbeat", {"assignment": True}),
    ("skip", {"assignment": 2**70}), ("heartbeat", {"assignment": 999}),
    ("skip", {"assignment": -1}),
])  # fmt: skip
def test_assignments_of_nobody_are_refused(client, name, fields):
    answer = client().post(name, key="k", judgements=[], **fields)
    assert answer.status_code == 404
    assert "assignment must be one of yours" in answer.json()["error"]


@pytest.mark.parametrize("seconds", ["soon", "3", -1, 1e9, True, [1]])
def test_seconds_are_seconds(client, seconds):
    answer = client().judge(seconds=seconds)
    assert answer.status_code == 400
    assert "seconds must be" in answer.json()["error"]


def test_requests_that_are_no_json_are_refused(client):
    own = client()
    headers = {"authorization": f"Bearer {TOKENS['one']}"}
    as_json = {**headers, "content-type": "application/json"}
    for body, given, status in (
        ("{}", headers | {"content-type": "text/plain"}, 415),  # a form of another site
        ("{}", headers | {"content-type": "application/x-www-form-urlencoded"}, 415),
        ("[1]", as_json, 400), ("{", as_json, 400), ("\xff", as_json, 400),
        ('{"a": NaN}', as_json, 400), ("[" * 100_000, as_json, 400),
        ('{"draft": "' + "x" * 1_000_000 + '"}', as_json, 413),
    ):  # fmt: skip
        answer = own.http.post("/api/next", content=body.encode("latin-1"), headers=given)
        assert answer.status_code == status, body[:20]
        assert "\n" not in answer.json()["error"]


def test_a_get_takes_no_item(client, place):
    own = client()
    headers = {"authorization": f"Bearer {TOKENS['one']}"}
    assert own.http.get("/api/next", headers=headers).status_code == 405
    assert rows(place, "select count(*) from assignment") == [(0,)]


def test_every_answer_has_the_headers(client):
    own = client()
    own.http.cookies.set(api.COOKIE, TOKENS["one"])
    for path in ("/", "/static/annotate.js", "/api/progress", "/nowhere", "/?token=x"):
        headers = own.http.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'self'")
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_other_names_of_the_server_are_refused(client):
    """So that a page elsewhere that makes its name point here reads nothing."""
    assert client().http.get("/", headers={"host": "evil.example"}).status_code == 400


def test_a_full_disk_is_told_and_nothing_acknowledged_is_lost(client, database_of, place):
    own = client(60)
    acknowledged = {own.judge().json()["stored"][0]["id"] for _ in range(3)}
    database_of.write(lambda c: c.exec_driver_sql(
        f"PRAGMA max_page_count = {c.exec_driver_sql('PRAGMA page_count').scalar()}"))  # fmt: skip
    held, refused = own.post("next"), 0
    for number in range(60):
        long = {"kind": "choice", "payload": {"choice": "first"}, "reason": "x" * 9000}
        answer = own.post("submit", assignment=held.json()["assignment"], key=f"n{number}",
                          judgements=[long])  # fmt: skip
        if answer.status_code == 200:
            acknowledged.add(answer.json()["stored"][0]["id"])
            held = own.post("next")
        if answer.status_code == 507 or held.status_code == 507:
            refused += 1
            break
    assert refused
    told = (answer if answer.status_code == 507 else held).json()["error"]
    assert told.endswith("got database or disk is full. Nothing was stored: send it again.")
    assert {n for (n,) in rows(place, "select id from judgement")} == acknowledged
    database_of.write(lambda c: c.exec_driver_sql("PRAGMA max_page_count = 1000000"))
    assert own.judge().status_code == 200
    assert database_of.read(queries.totals)["judgement"] == len(acknowledged) + 1


def test_the_page_holds_settings_and_no_item(client):
    own = client(own=project.Project(name="<b>Mine</b>", guideline="<script>x</script> \" '"))
    own.http.cookies.set(api.COOKIE, TOKENS["one"])
    text = own.http.get("/").text
    assert "<script>x" not in text
    assert "<b>Mine" not in text
    assert "&lt;script&gt;x" in text
    assert "question" not in text
