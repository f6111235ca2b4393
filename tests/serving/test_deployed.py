"""A server's guard from files: thresholds by the text's language, series, recorded verdicts."""

import json
import sys

import pytest

from alignjax.feedback import database, exchanges
from alignjax.feedback.store import exchanges as stored
from alignjax.serving import deployed, described_guards, languages, thresholds
from alignjax.text import chat

ONE = thresholds.Threshold(0.5, 100, 96, 0.05)
ENGLISH = "The garden is green because it has rained for the whole of last week."
GERMAN = "Der Garten ist grün, weil es die ganze letzte Woche geregnet hat."
FRENCH = "Le jardin est vert parce qu'il a plu pendant toute la semaine dernière."


def asked(text):
    return [chat.Turn(chat.HUMAN, text)]


def test_the_language_is_that_of_the_user_and_the_same_each_time():
    tell = languages.detector({"en", "de"})
    for text, language in (
        (ENGLISH, "en"),
        (GERMAN, "de"),
        (FRENCH, "*"),
        ("123 !", "*"),
        ("", "*"),
    ):
        assert {tell(asked(text)) for _ in range(5)} == {language}
    mixed = [*asked(GERMAN), chat.Turn(chat.ASSISTANT, ENGLISH * 3)]
    assert tell(mixed) == "de"


def test_without_langdetect_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "langdetect", None)
    with pytest.raises(ValueError, match="pip install 'alignjax\\[guard\\]'"):
        languages.detector({"en"})
    alone = thresholds.Thresholds("f", {"*": {"a": ONE}})
    assert languages.of(alone)(asked(ENGLISH)) == "*"


def files(folder, name, words, by=("*",)):
    path, limits = folder / f"{name}.json", folder / f"{name}.t.json"
    path.write_text(json.dumps({"kind": "rule", "categories": {name: {"words": words}}}))
    with described_guards.opened(described_guards.read(str(path))) as own:
        high = ONE._replace(value=1.0)  # nothing is above it
        rows = {one: {name: high if one == "de" else ONE} for one in by}
        thresholds.write(limits, thresholds.Thresholds(own.fingerprint, rows))
    return str(path), str(limits)


def test_a_servers_guard_chooses_thresholds_by_language_and_records(tmp_path):
    path, limits = files(tmp_path, "a", ["garden", "garten"], ("*", "de", "en"))
    place, plan = str(tmp_path / "review.db"), exchanges.Plan(blocked=1.0, allowed=1.0)
    with deployed.opened(path, limits, place=place, plan=plan) as guard:
        assert guard.before(asked(ENGLISH)).blocked
        assert not guard.before(asked(GERMAN)).blocked
    with database.read_only(place) as read:
        found = read(lambda c: list(stored.reviewed(c)))
    assert [(one.language, one.blocked, one.turns) for one in found] == [
        ("en", True, None), ("de", False, None),
    ]  # fmt: skip


def test_guards_in_series_and_what_is_refused(tmp_path):
    first, second = files(tmp_path, "a", ["bad"]), files(tmp_path, "b", ["worse"])
    both = [",".join(own) for own in zip(first, second, strict=True)]
    with deployed.opened(*both) as guard:
        said = [guard.before(asked(text)).blocked for text in ("bad", "worse", "fine")]
    assert said == [True, True, False]
    for options in ((both[0], first[1]), (*both, str(tmp_path / "x.db"))):
        named = {"place": options[2]} if len(options) > 2 else {}
        with (
            pytest.raises(ValueError, match="a file of thresholds each"),
            deployed.opened(*options[:2], **named),
        ):
            pass
    with (
        pytest.raises(ValueError, match="must be those of the guard"),
        deployed.opened(first[0], second[1]),
    ):
        pass
