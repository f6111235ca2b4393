"""Files of judgements of many people: one row a judgement, and each kind of dirt they hold."""

import contextlib
import csv
import json
import math

import numpy as np
import pytest

from alignjax.data import files, layouts, reading, records
from alignjax.feedback import imports, project
from alignjax.text import chat
from tests.data.layouts.community_rows import assessments, conversation, history, turn

ASK, MORE = "What shall I eat?", "And to drink?"
FOUR = ("rice", "bread", "soup", "fruit")
INF = math.inf


def read(name, fields, **options):
    """(typed rows, errors) of one row of the data."""
    layout, found, errors = layouts.LAYOUTS[name], [], []
    record, options = layouts.Record(fields, "f", 3), layouts.Options(**options)
    for own in layout.unfold(record, options):
        if isinstance(own, records.DataError):
            errors.append(own)
        else:
            found.append(layout.row(layouts.Record(own, "f", 3), options))
    return found, errors


def texts(row):
    return [answer[0].text for answer in row.answers]


def ranks(row):
    return dict(zip(texts(row), row.ranks, strict=True))


def community(*turns, **more):
    return read("community_alignment", conversation(*turns, **more))


def reasons(errors):
    return [error.reason for error in errors]


def test_a_choice_of_the_best_is_one_row_in_which_three_are_unranked():
    (row,), errors = community(turn("first", ASK, FOUR, "c", "warm"))
    assert not errors
    assert row.prompt == (chat.Turn(chat.HUMAN, ASK),)
    assert ranks(row) == {"soup": 1.0, "rice": INF, "bread": INF, "fruit": INF}
    kept = {
        "rater": "p1", "language": "hi", "group": "india", "turn": 1, "slot": "c",
        "reason": "warm", "id": "garden-1", "conversation_id": "garden", "wave": "1",
        "is_pregenerated_first_prompt": "True", "in_balanced_subset": "False",
        "annotator_age": "18-34", "annotator_political": "y",
    }  # fmt: skip
    assert kept.items() <= row.columns.items()
    assert not [name for name in row.columns if name.startswith("first_turn")]
    assert (row.file, row.line) == ("f", 3)


def test_later_turns_answer_to_what_was_preferred_before():
    found, errors = community(
        turn("first", ASK, FOUR, "b"), turn("second", MORE, ("tea", "milk", "", ""), "a")
    )
    assert not errors
    assert found[1].prompt == (
        chat.Turn(chat.HUMAN, ASK), chat.Turn(chat.ASSISTANT, "bread"), chat.Turn(chat.HUMAN, MORE)
    )  # fmt: skip
    assert ranks(found[1]) == {"tea": 1.0, "milk": INF}
    assert [row.columns["turn"] for row in found] == [1, 2]


def test_a_gap_between_turns_cuts_the_conversation_there_and_is_counted():
    for gap in ("", "nan", "EMPTY STRING", None, math.nan):
        found, errors = community(
            turn("first", ASK, FOUR, "b"),
            turn("second", gap, ("", "", "", ""), ""),
            turn("third", MORE, FOUR, "a"),
        )
        assert [row.columns["turn"] for row in found] == [1]
        assert reasons(errors) == ["missing turn"]
        assert "second_turn_prompt must be there where later turns are" in str(errors[0])


def test_a_conversation_without_a_choice_ends_there_and_is_counted():
    for best, blank in (("", "rice"), ("a", "EMPTY STRING"), ("a", "<|end_of_text|>")):
        found, errors = community(
            turn("first", ASK, FOUR, "b"),
            turn("second", MORE, (blank, "bread", "soup", "fruit"), best),
            turn("third", MORE, FOUR, "a"),
        )
        assert len(found) == 1
        assert reasons(errors) == ["no choice"]
    with pytest.raises(records.DataError, match="must name an answer; got 'response_e'"):
        community(turn("first", ASK, FOUR, "e"))


def test_the_end_mark_is_no_text():
    (row,), _ = community(
        turn("first", f"{ASK}<|end_of_text|>", ("rice<|end_of_text|>", "bread", "x", "y"), "a")
    )
    assert row.prompt[0].text == ASK
    assert ranks(row)["rice"] == 1.0


@pytest.mark.parametrize("blank", ["EMPTY STRING", "nan", "", None, math.nan])
def test_a_blank_candidate_takes_no_part(blank):
    (row,), errors = community(turn("first", ASK, ("rice", blank, "soup", "fruit"), "a"))
    assert not errors
    assert ranks(row) == {"rice": 1.0, "soup": INF, "fruit": INF}


def test_equal_candidates_are_one_and_no_loser_equals_the_best():
    (row,), _ = community(turn("first", ASK, ("rice", "rice", "soup", "soup"), "b"))
    assert ranks(row) == {"rice": 1.0, "soup": INF}
    found, errors = community(
        turn("first", ASK, ("rice",) * 4, "b"), turn("second", MORE, FOUR, "a")
    )
    assert reasons(errors) == [chat.EQUAL]
    assert [row.columns["turn"] for row in found] == [2]
    assert found[0].prompt[1].text == "rice"


def test_the_same_candidates_in_other_slots_are_the_same_row():
    (one,), _ = community(turn("first", ASK, FOUR, "a"))
    (two,), _ = community(turn("first", ASK, FOUR[::-1], "d"))
    assert (one.answers, one.ranks) == (two.answers, two.ranks)
    assert (one.columns["slot"], two.columns["slot"]) == ("a", "d")  # order bias can be measured


@pytest.mark.parametrize("country", ["", "nan", None])
def test_an_unknown_country_is_a_group_of_its_own(country):
    (row,), errors = community(turn("first", ASK, FOUR, "a"), annotator_country=country)
    assert not errors
    assert row.columns["group"] == "unknown"


def test_prism_goes_on_with_the_answer_that_was_chosen():
    opening = [("rice", 80, False), ("bread", 95, True), ("soup", 80, False), ("", 10, False)]
    fields = {
        "user_id": "u7", "conversation_id": "c1", "conversation_type": "unguided",
        "conversation_history": history(
            (ASK, opening), (MORE, [("tea", 30, False), ("milk", 60, True)])
        ),
    }  # fmt: skip
    (one, two), errors = read("prism", fields)
    assert not errors
    assert one.scores == {"score": (95.0, 80.0, 80.0)}
    assert ranks(one) == {"bread": 0.0, "rice": 1.0, "soup": 1.0}
    assert [t.text for t in two.prompt] == [ASK, "bread", MORE]
    kept = {"rater": "u7", "group": "unknown", "turn": 1, "conversation_type": "unguided"}
    assert kept.items() <= one.columns.items()
    gap = [m | {"turn": 2 * m["turn"]} for m in fields["conversation_history"]]
    found, errors = read("prism", fields | {"conversation_history": gap, "country": "kenya"})
    assert (len(found), reasons(errors)) == (1, ["missing turn"])
    assert found[0].columns["group"] == "kenya"


def test_the_wide_form_of_prism_gives_its_opening():
    fields = {
        "user_id": "u7", "conversation_id": "c1", "utterance_id": "x", "user_prompt": ASK,
        **{f"response_{s}": text for s, text in zip("abcd", FOUR, strict=True)},
        **{f"model_{s}": s for s in "abcd"}, "score_a": "40", "score_b": "90", "score_c": 40,
        "score_d": None,
    }  # fmt: skip
    (row,), errors = read("prism", fields)
    assert not errors
    assert ranks(row) == {"bread": 0.0, "rice": 1.0, "soup": 1.0}
    assert row.columns["model_b"] == "b"
    found, errors = read("prism", fields | {"turn": 1})
    assert (found, reasons(errors)) == ([], ["missing turn"])


def test_collective_alignment_has_a_row_for_each_person_and_two_rankings():
    fields = assessments(
        ASK, FOUR, ("p1", "B>A=C>D", "D>A>B>C", "Kenya"), ("p2", "", "A > B", None)
    )
    (one,), errors = read("collective_alignment", fields)
    assert ranks(one) == {"bread": 1.0, "rice": 2.0, "soup": 2.0, "fruit": 3.0}
    kept = {"rater": "p1", "group": "Kenya", "ranking": "personal", "reason": "since",
            "importance": "high", "prompt_id": "garden", "id": "garden-0"}  # fmt: skip
    assert kept.items() <= one.columns.items()
    assert reasons(errors) == ["no choice"]
    assert "set data.score=world" in str(errors[0])
    (one, two), errors = read("collective_alignment", fields, score="world")
    assert not errors
    assert ranks(two) == {"rice": 1.0, "bread": 2.0, "soup": INF, "fruit": INF}
    assert (two.columns["group"], ranks(one)["fruit"]) == ("unknown", 1.0)
    with pytest.raises(records.DataError, match=r"data.score must name a ranking; got 'mine'"):
        read("collective_alignment", fields, score="mine")
    found, errors = read(
        "collective_alignment", assessments(ASK, FOUR, ("p", "E>A", "", "x"), ("q", "A>B", "", "x"))
    )
    assert (len(found), reasons(errors)) == (1, ["unknown answer"])
    assert "must name answers alone; got 'E>A'" in str(errors[0])


BAD = (None, 3, "x", [3], [None], {"a": 1})


@pytest.mark.parametrize("bad", BAD, ids=repr)
def test_what_stands_at_the_wrong_place_is_one_line_and_no_traceback(bad):
    """Each nested value replaced by something else: a DataError, or a row, and never more."""
    whole = {
        "collective_alignment": assessments(ASK, FOUR, ("p", "B>A", "A>B", "Kenya")),
        "prism": {"user_id": "u", "conversation_id": "c",
                  "conversation_history": history((ASK, [("a", 1, True), ("b", 2, False)]))},
        "community_alignment": conversation(turn("first", ASK, FOUR, "a")),
    }  # fmt: skip
    for name, fields in whole.items():
        for path in list(paths(fields)):
            try:
                read(name, replaced(fields, path, bad))
            except records.DataError as error:
                assert "\n" not in str(error)  # noqa: PT017
        for field in fields:
            with contextlib.suppress(records.DataError):
                read(name, {n: x for n, x in fields.items() if n != field})


def paths(value, before=()):
    """The place of every value inside one."""
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in entries:
        yield (*before, key)
        if isinstance(inner, dict | list):
            yield from paths(inner, (*before, key))


def replaced(value, path, new):
    """A copy with another value at a place."""
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = new if len(path) == 1 else replaced(copy[path[0]], path[1:], new)
    return copy


def config(path, **options):
    shared = {"vocab_size": 300, "length": 96, "prompt_length": 64, "holdout": 0.0,
              "max_leaked_share": 1.0}  # fmt: skip
    return files.FilesConfig(path=str(path), **shared | options)


def test_a_csv_becomes_rankings_and_counts_what_was_cut(tmp_path):
    path = tmp_path / "community.train.csv"
    whole = [turn("first", ASK, FOUR, "a"), turn("second", MORE, FOUR, "b")]
    gap = [whole[0], turn("second", "", ("",) * 4, ""), turn("third", MORE, FOUR, "c")]
    table = [conversation(*(gap if i == 5 else whole), conversation_id=f"c{i}") for i in range(20)]
    names = list(dict.fromkeys(name for row in table for name in row))
    for place in (path, tmp_path / "community.test.csv"):
        with place.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, names)
            writer.writeheader()
            writer.writerows(table)
    lines = []
    corpus = config(tmp_path).make(lines.append)
    assert lines[0].startswith("layout community_alignment, by its fields: ")
    assert "train: 39 rows of 40 read; dropped: 1 missing turn" in corpus.summary[0]
    ranked = corpus.read("rankings", "train")
    assert ranked["ranks"].shape == (39, 4)
    assert (np.isfinite(ranked["ranks"]).sum(axis=1) == 1).all()
    assert corpus.tasks("train")[1]["turn"] == 2
    for rule in ("best-worst", "best-random", "all"):  # never three pairs of one judgement
        pairs = config(tmp_path, pairs=rule).make(lines.append).read("pairs", "train")
        assert pairs["tokens"].shape[:2] == (39, 2)


def test_a_column_may_be_the_group_by_another_name(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(conversation(turn("first", ASK, FOUR, "a"))))
    source, parts, _ = files.opened(config(path, fields="group=annotator_ethnicity"))
    (row,) = reading.read(parts, source, reading.Tally())
    assert row.columns["group"] == "z"
    assert parts[0].unit == "line"


def test_prompts_and_items_to_be_judged_again_are_read_of_it(tmp_path):
    path = tmp_path / "rows.jsonl"
    whole = conversation(turn("first", ASK, FOUR, "a"), turn("second", MORE, FOUR, "b"))
    path.write_text(json.dumps(whole))
    assert [len(turns) for turns in imports.prompts(str(path))] == [1, 3]
    items = list(imports.items(str(path), project.Project()))
    assert [len(item.turns) for item in items] == [1, 3]
    assert {c.text for c in items[0].candidates} == set(FOUR)


def test_a_file_that_lacks_a_column_is_told_with_those_that_it_has(tmp_path):
    row = conversation(turn("first", ASK, FOUR, "a"))
    del row["first_turn_preferred_response"]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(records.DataError) as caught:
        files.opened(config(path, layout="community_alignment"))
    assert "first_turn_preferred_response" in str(caught.value)
    assert "annotator_country (string)" in str(caught.value)
