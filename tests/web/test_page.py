"""The page in a real browser: keys alone, drafts, hostile text, narrow screens, readers."""

import json
import re

import pytest

from alignjax.feedback import content, project
from tests.feedback.conftest import ALONE, item, rows

pytestmark = pytest.mark.browser
EVERY = project.Project(
    also=("score", "rewrite", "spans", "flags"), scales=("helpfulness", "honesty"), overlap=0.0,
    gold=0.0, repeats=0.0, guideline="Prefer what is true.",
)  # fmt: skip
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def loaded(page, number):
    """Waits for so many judged items to be told."""
    page.locator("#progress").filter(has_text=re.compile(rf"^{number} judged")).wait_for()


def told(page, text):
    """Waits for a message; the page's policy allows no waiting by a script."""
    page.locator("#message").filter(has_text=text).wait_for()


def payloads(place, kind):
    query = f"select payload from judgement where kind = '{kind}' order by id"
    return [None if text is None else json.loads(text) for (text,) in rows(place, query)]


def shown(page):
    return [box.text_content() for box in page.query_selector_all(".answer > .text")]


def test_twenty_items_by_keyboard_alone(serve, open_page):
    own = serve(20, ALONE)
    page = open_page(own.address)
    expected = []
    for number in range(20):
        key, choice = (("1", "first"), ("2", "second"), ("t", "tie"), ("b", "both_bad"))[number % 4]
        page.keyboard.press(key)
        strength = 2 if number % 8 == 0 else None
        for _ in range(strength or 0):
            page.keyboard.press(key)
        page.keyboard.press("Enter")
        loaded(page, number + 1)
        expected.append((choice, strength))
    page.wait_for_selector("#finished:not([hidden])")
    assert page.text_content("#progress").startswith("20 judged, 0 left")
    found = payloads(own.place, "choice")
    assert [(p["choice"], p["strength"]) for p in found] == expected
    assert page.text_content("#message") == ""


def test_a_reload_brings_the_item_back_with_what_was_said_of_it(serve, open_page):
    own = serve(5, EVERY)
    page = open_page(own.address)
    page.keyboard.press("2")
    page.keyboard.press("2")
    page.keyboard.press("e")
    page.keyboard.type(", better")
    page.fill("#reason", "because")
    page.wait_for_timeout(600)
    texts = shown(page)
    page.reload()
    page.wait_for_selector("#item:not([hidden])")
    assert shown(page) == texts
    assert page.input_value("#reason") == "because"
    assert page.input_value("#edit-1 textarea") == f"{texts[1]}, better"
    page.keyboard.press("Enter")
    loaded(page, 1)
    assert payloads(own.place, "choice")[0]["choice"] == "second"
    assert payloads(own.place, "choice")[0]["strength"] == 1
    assert payloads(own.place, "rewrite")[0]["text"] == f"{texts[1]}, better"
    assert rows(own.place, "select reason from judgement where kind = 'choice'") == [("because",)]


def test_undo_brings_the_last_item_back_and_an_edit_is_a_revision(serve, open_page):
    own = serve(3, ALONE)
    page = open_page(own.address)
    first = shown(page)
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    loaded(page, 1)
    page.keyboard.press("u")
    loaded(page, 0)
    assert shown(page) == first
    assert page.get_attribute("[data-choice=first]", "aria-pressed") == "true"
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    loaded(page, 1)
    chain = [p and p["choice"] for p in payloads(own.place, "choice")]
    assert chain == ["first", None, "second"]
    assert rows(own.place, "select supersedes from judgement order by id") == [(None,), (1,), (2,)]


def test_a_skip_is_no_judgement(serve, open_page):
    own = serve(2, ALONE)
    page = open_page(own.address)
    before = shown(page)
    page.keyboard.press("s")
    page.locator("#progress").filter(has_text="1 skipped").wait_for()
    assert shown(page) != before
    assert rows(own.place, "select count(*) from judgement") == [(0,)]


def test_answers_are_ranked_by_keys_with_ties(serve, open_page):
    own = serve([item(i, 4) for i in range(2)], ALONE)
    page = open_page(own.address)
    for key in ("3", "t", "1", "4", "2", "Backspace"):
        page.keyboard.press(key)
    places = [place.text_content() for place in page.query_selector_all(".place")]
    assert places == ["rank 1", "", "rank 1", "rank 3"]
    page.keyboard.press("Enter")
    loaded(page, 1)
    ((order,),) = rows(own.place, "select shown from assignment where state = 'done'")
    ranks = [None] * 4
    for slot, rank in enumerate([1, None, 1, 3]):
        ranks[json.loads(order)[slot]] = rank
    assert payloads(own.place, "ranking") == [{"ranks": ranks}]
    page.select_option("[data-rank='0']", "2")
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    loaded(page, 2)


def test_one_answer_is_scored_by_keys_from_scale_to_scale(serve, open_page):
    own = serve([item(1, 1)], EVERY)
    page = open_page(own.address)
    page.keyboard.press("7")
    page.keyboard.press("3")
    page.keyboard.press("Enter")
    loaded(page, 1)
    assert payloads(own.place, "score") == [{"scores": {"helpfulness": [7], "honesty": [3]}}]


def test_keys_inside_text_are_text(serve, open_page):
    own = serve(2, EVERY)
    page = open_page(own.address)
    page.focus("#reason")
    page.keyboard.type("but 2 is best, u see")
    assert page.query_selector("[aria-pressed=true]") is None
    assert page.input_value("#reason") == "but 2 is best, u see"
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    page.keyboard.press("f")
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    loaded(page, 1)
    assert payloads(own.place, "flags") == [{"flags": ["unsafe"]}]


def test_spans_by_keys_count_code_points(serve, open_page):
    """Emoji are two UTF-16 units, letters carry marks, and line ends are two characters."""
    text = "😀😀\r\nनमस्ते no"
    answers = (content.Candidate(text, "m"), content.Candidate("other", "n"))
    own = serve([content.Item((("human", "q"),), answers, "hi")], EVERY)
    page = open_page(own.address)
    slot = shown(page).index(text)
    page.keyboard.press(str(slot + 1))
    page.keyboard.press("m")
    area = page.locator(f"#mark-{slot} textarea")
    page.keyboard.type("no text is typed here")
    assert area.input_value() == text.replace("\r\n", "\n")
    page.keyboard.press("Control+End")
    for _ in range(2):
        page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Enter")
    assert page.locator(f"#spans-{slot} q").text_content() == "no"
    page.keyboard.press("Control+Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Enter")
    page.keyboard.press("Control+Enter")
    loaded(page, 1)
    (spans,) = payloads(own.place, "spans")
    found = [(s["start"], s["end"], s["text"]) for s in spans["spans"]]
    assert found == [(len(text) - 2, len(text), "no"), (1, 4, "😀\r\n")]
    assert all(text[start:end] == part for start, end, part in found)


def test_hostile_text_is_text(serve, open_page):
    answers = (content.Candidate(HOSTILE, "m"), content.Candidate("javascript:alert(1)", "n"))
    guideline = project.Project(name=HOSTILE, guideline=HOSTILE, overlap=0.0, span_types=(HOSTILE,))
    own = serve([content.Item((("human", HOSTILE),), answers)], guideline)
    page = open_page(own.address)
    page.keyboard.press("1")
    page.keyboard.press("e")
    page.keyboard.press("Escape")
    page.keyboard.press("m")
    page.keyboard.press("Control+a")
    page.keyboard.press("Enter")
    page.wait_for_timeout(300)
    assert HOSTILE in shown(page)
    assert page.title() == HOSTILE
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2  # the page's own
    # The policy refuses what a hole in the page would let in.
    page.evaluate(
        """html => {
            document.querySelector("main").insertAdjacentHTML("beforeend", html);
            const script = document.createElement("script");
            script.textContent = "document.title = 'owned'";
            document.body.append(script);
        }""",
        HOSTILE,
    )
    page.wait_for_timeout(300)
    assert page.locator("img").count() == 1
    assert page.title() == HOSTILE


def test_no_models_name_reaches_the_page(serve, open_page):
    own = serve([item(i, 3) for i in range(3)], ALONE)
    page = open_page(own.address)
    answers = []
    page.on("response", lambda response: answers.append(response.text()))
    for number in range(3):
        assert "model" not in page.evaluate("document.documentElement.outerHTML")
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        loaded(page, number + 1)
    assert len(answers) >= 3
    assert not any("model-" in text for text in answers)
    assert rows(own.place, "select count(distinct model) from candidate") == [(3,)]


@pytest.mark.parametrize("answers", [1, 2, 4])
def test_a_narrow_screen_needs_no_sideways_scroll(serve, open_page, answers):
    long = "w" * 400 + " " + "नमस्ते " * 20 + "مرحبا " * 20
    given = tuple(content.Candidate(f"{long} {i}", "m") for i in range(answers))
    own = serve([content.Item((("human", long),), given)], EVERY)
    page = open_page(own.address, viewport={"width": 320, "height": 568})
    page.keyboard.press("1")
    page.keyboard.press("e")
    page.keyboard.press("Escape")
    page.keyboard.press("m")
    page.keyboard.press("Control+a")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    page.keyboard.press("f")
    width = page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]")
    assert max(width) <= 320
    page.keyboard.press("?")
    box = page.locator("#help").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 320
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert page.locator("#help").is_hidden()


def test_text_runs_in_its_own_direction(serve, open_page):
    answers = (content.Candidate("مرحبا بالعالم", "m"), content.Candidate("नमस्ते", "n"))
    own = serve([content.Item((("human", "שלום"),), answers, "ar")], EVERY)
    page = open_page(own.address)
    directions = page.evaluate(
        "[...document.querySelectorAll('.text')].map("
        "box => [box.textContent, getComputedStyle(box).direction, box.lang])"
    )
    found = {text: (direction, lang) for text, direction, lang in directions}
    assert found["مرحبا بالعالم"] == ("rtl", "ar")
    assert found["नमस्ते"] == ("ltr", "ar")
    assert found["שלום"][0] == "rtl"


def test_a_screen_reader_has_a_name_for_every_control(serve, open_page):
    own = serve([item(1, 3), item(2, 2)], EVERY)
    page = open_page(own.address)
    for _ in range(2):
        page.keyboard.press("1")
        page.keyboard.press("e")
        page.keyboard.press("Escape")
        page.keyboard.press("m")
        page.keyboard.press("Escape")
        page.keyboard.press("f")
        session = page.context.new_cdp_session(page)
        nodes = session.send("Accessibility.getFullAXTree")["nodes"]
        controls = (
            "button",
            "textbox",
            "radio",
            "checkbox",
            "combobox",
            "article",
            "group",
            "form",
        )
        named = {}
        for node in nodes:
            role = node.get("role", {}).get("value")
            if not node.get("ignored") and role in controls:
                named.setdefault(role, []).append(node.get("name", {}).get("value", ""))
        assert {"button", "textbox", "radio", "checkbox", "article", "form"} <= named.keys()
        for role, names in named.items():
            assert all(name.strip() for name in names), (role, names)
        assert "Answer 1" in named["article"]
        assert any("Rewrite of answer 1" in name for name in named["textbox"])
        assert any("helpfulness of answer 2" in name for name in named["group"])
        live = [n["role"]["value"] for n in nodes if n.get("role", {}).get("value") in
                ("alert", "status")]  # fmt: skip
        assert sorted(live) == ["alert", "status"]
        page.keyboard.press("Escape")
        page.keyboard.press("Enter")
        loaded(page, 1)


def test_two_people_never_hold_one_item(serve, open_page, tmp_path):
    file = tmp_path / "tokens"
    file.write_text("asha token-of-rater-asha\nbo token-of-rater-number-bo\n")
    own = serve(2, ALONE, f"--token_file={file}")
    one = open_page(f"{own.address}?token=token-of-rater-asha")
    two = open_page(f"{own.address}?token=token-of-rater-number-bo")
    assert "token" not in one.url
    assert set(shown(one)).isdisjoint(shown(two))
    one.keyboard.press("1")
    one.keyboard.press("Enter")
    one.wait_for_selector("#finished:not([hidden])")
    assert rows(own.place, "select count(distinct item), count(*) from assignment") == [(2, 2)]
    three = open_page(f"{own.address}?token=token-of-rater-asha")
    assert three.is_visible("#finished")


def test_who_has_no_token_sees_a_field_for_it(serve, chromium, tmp_path):
    file = tmp_path / "tokens"
    file.write_text("asha token-of-rater-asha\n")
    own = serve(1, ALONE, f"--token_file={file}")
    page = chromium.new_page()
    page.goto(own.address)
    page.get_by_label("Your token").fill("wrong-token-entirely")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=unknown one")
    page.get_by_label("Your token").fill("token-of-rater-asha")
    page.keyboard.press("Enter")
    page.wait_for_selector("#item:not([hidden])")
    assert re.fullmatch(r"http://127.0.0.1:\d+/", page.url)
    page.close()


def test_what_is_entered_stays_when_the_server_is_gone(serve, open_page):
    own = serve(2, ALONE, process=True)
    page = open_page(own.address)
    page.keyboard.press("2")
    own.process.kill()
    own.process.wait()
    page.keyboard.press("Enter")
    told(page, "does not answer")
    assert page.get_attribute("[data-choice=second]", "aria-pressed") == "true"


def test_an_item_that_went_to_another_is_told(serve, open_page, tmp_path):
    file = tmp_path / "tokens"
    file.write_text("asha token-of-rater-asha\nbo token-of-rater-number-bo\n")
    asked = project.Project(overlap=0.0, lease_minutes=0.02)  # 1.2 s
    own = serve(1, asked, f"--token_file={file}")
    page = open_page(f"{own.address}?token=token-of-rater-asha")
    page.wait_for_timeout(1500)
    assert own.call("next", {}, "token-of-rater-number-bo")[1]["assignment"] == 2
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    told(page, "went to another rater")
    page.wait_for_selector("#finished:not([hidden])")
    assert rows(own.place, "select count(*) from judgement") == [(0,)]


def test_what_is_entered_in_the_last_moment_is_there_after_a_reload(serve, open_page):
    own = serve(2, ALONE)
    page = open_page(own.address)
    page.keyboard.press("b")
    page.reload()
    page.wait_for_selector("#item:not([hidden])")
    assert page.get_attribute("[data-choice=both_bad]", "aria-pressed") == "true"


def test_submitting_nothing_says_what_is_missing(serve, open_page):
    page = open_page(serve(1, ALONE).address)
    page.keyboard.press("Enter")
    told(page, "list of some")
    assert page.is_visible("#item")


def test_keys_are_the_projects_own(serve, open_page):
    own = serve(1, project.Project(overlap=0.0, keys={"tie": "x"}))
    page = open_page(own.address)
    page.keyboard.press("t")
    assert page.query_selector("[aria-pressed=true]") is None
    page.keyboard.press("x")
    assert page.get_attribute("[data-choice=tie]", "aria-pressed") == "true"
    assert "Tie (x)" in page.text_content("#choices")
