"""The review pages in a real browser, and their interface: keys, hostile text, no scores shown."""

import contextlib
import json
import threading

import pytest
import uvicorn

from alignjax.feedback import database, exchanges
from alignjax.feedback.store import exchanges as stored
from alignjax.feedback.store import items, queries
from alignjax.web import api, app, review
from alignjax.web import serve as serving
from tests.feedback.conftest import rows
from tests.web import conftest

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
LIMITS = {"amber": 0.5, "cobalt": 0.5}


def exchange(number, amber=0.5, text="", **more):
    own = exchanges.Exchange(
        (("human", text or f"question {number}"), ("assistant", f"answer {number}")),
        {"amber": amber, "cobalt": 0.1234567}, LIMITS, amber > 0.5,
        language=("en", "de")[number % 2], guard="g",
    )  # fmt: skip
    return own._replace(**more)


@pytest.fixture
def reviewed(tmp_path):
    """(exchanges, baseline) -> the running application and its database."""
    with contextlib.ExitStack() as running:

        def run(given, baseline=0.05, now=None):
            place = str(tmp_path / "review.db")
            db = running.enter_context(database.opened(place, new=True))
            own = running.enter_context(serving.listening("127.0.0.1", 0))
            clock = database.Clock(db.read(queries.latest))
            db.write(stored.record, given, exchanges.Plan(blocked=1.0, allowed=1.0), clock.now(),
                     keep_text=True)  # fmt: skip
            alone = db.write(items.rater_named, "me", 1.0)
            service = api.Service(db, db.read(queries.settings), clock, alone)
            served = review.served("", baseline)
            served.check(db, place)
            made = app.make_app(service, parts=served.parts)
            server = uvicorn.Server(uvicorn.Config(made, log_level="warning", lifespan="off"))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [own]})
            thread.start()

            def stop():
                server.should_exit = server.force_exit = True
                thread.join()

            running.callback(stop)
            address = f"http://127.0.0.1:{own.getsockname()[1]}/"
            return conftest.Server(None, address, place, [])

        yield run


def verdicts(place):
    return [
        json.loads(x) if x else None
        for (x,) in rows(place, "select labels from verdict order by id")
    ]


def test_the_interface_tells_no_score_and_refuses_in_one_line(reviewed):
    own = reviewed([exchange(i, amber=0.9) for i in range(3)])
    status, held = own.call("review/next", {})
    assert status == 200
    assert held.keys() == {"progress", "exchange", "turns", "language"}
    assert "0.1234567" not in json.dumps(held)
    labels = {"amber": True, "cobalt": False}
    sent = {"exchange": held["exchange"], "key": "k", "labels": labels}
    assert own.call("review/submit", sent)[0] == 200
    for wrong, code in (
        ({**sent, "key": "x"}, 409), ({**sent, "labels": {"amber": True}, "key": "y"}, 400),
        ({**sent, "exchange": 77, "key": "z"}, 404),
    ):  # fmt: skip
        status, answer = own.call("review/submit", wrong)
        assert (status, list(answer)) == (code, ["error"])
        assert "\n" not in answer["error"]
    assert own.call("review/undo", {})[1]["exchange"] == held["exchange"]
    assert verdicts(own.place) == [labels, None]
    status, told = own.call("review/status")
    assert told["strata"] == {"blocked": 3}
    assert told["queue"]["waiting"] == 3
    blocks = {(b["category"], b["language"]): b["count"] for b in told["blocks"]}
    assert blocks == {("amber", "en"): 2, ("amber", "de"): 1}


def test_status_weighs_and_tells_drift(reviewed):
    own = reviewed([exchange(i, amber=0.99 if i % 4 == 0 else 0.01) for i in range(60)])
    for _ in range(60):
        held = own.call("review/next", {})[1]
        unsafe = int(held["turns"][0]["text"].split()[1]) % 4 == 0
        sent = {"exchange": held["exchange"], "key": str(held["exchange"]),
                "labels": {"amber": unsafe, "cobalt": False}}  # fmt: skip
        assert own.call("review/submit", sent)[0] == 200
    told = own.call("review/status")[1]
    assert sum(hour["count"] for hour in told["load"]) == 60
    assert told["rates"]["unsafe"]["value"] == pytest.approx(0.25)
    assert told["rates"]["false_positive"]["value"] == 0
    assert told["drift"]["found"] is True
    assert told["drift"]["evidence"] > told["drift"]["limit"]


@pytest.mark.browser
def test_exchanges_are_judged_by_keys_alone_and_what_users_wrote_is_text(reviewed, open_page):
    given = [exchange(i) for i in range(4)] + [exchange(9, text=HOSTILE)]
    own = reviewed(given)
    page = open_page(own.address)
    seen, expected = [], []
    for number in range(5):
        page.locator("#progress").filter(has_text=f"{number} judged").wait_for()
        seen.append(page.text_content("#turns .text"))
        html = page.evaluate("document.documentElement.outerHTML")
        assert "0.1234567" not in html
        assert page.evaluate("document.querySelectorAll('#turns img, #turns script').length") == 0
        keys = ("1", "", "12", "2", "1")[number]
        for pressed in keys:
            page.keyboard.press(pressed)
        page.keyboard.press("Enter")
        expected.append({"amber": "1" in keys, "cobalt": "2" in keys})
    page.wait_for_selector("#finished:not([hidden])")
    assert page.title() == "Review"
    assert HOSTILE in seen
    assert verdicts(own.place) == expected
    page.click("#back")
    page.wait_for_selector("#item:not([hidden])")
    assert verdicts(own.place)[-1] is None


@pytest.mark.browser
def test_the_status_page_shows_load_blocks_drift_and_queue(reviewed, open_page):
    own = reviewed([exchange(i, amber=0.9) for i in range(30)])
    page = open_page(f"{own.address}status")
    page.wait_for_selector("#item:not([hidden])")
    assert "30 in " in page.text_content("#load")
    assert page.get_attribute("#load svg", "aria-label").startswith("30 exchanges")
    cells = page.locator("#blocks td").all_text_contents()
    assert cells == ["amber", "de", "15", "amber", "en", "15"]
    assert page.text_content("#queue").startswith("30 wait")
    assert "Not shown to be more than 5.00%" in page.text_content("#drift")
    for _ in range(12):
        held = own.call("review/next", {})[1]
        labels = {"amber": True, "cobalt": False}
        own.call(
            "review/submit",
            {"exchange": held["exchange"], "key": str(held["exchange"]), "labels": labels},
        )
    page.reload()
    page.wait_for_selector("#item:not([hidden])")
    assert page.text_content("#queue").startswith("18 wait")
    assert "100.00%" in page.locator("#rates tr").nth(3).text_content()
    page.set_viewport_size({"width": 320, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
