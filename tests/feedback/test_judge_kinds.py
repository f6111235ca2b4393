"""`alignjax judge` by what a model writes, by principles, and by facts that are looked up."""

import json

import numpy as np
import pytest

from tests.feedback import judges
from tests.feedback.test_judge import TEMPLATE, judged, sides, unread

PRINCIPLES = "\n".join(
    f"[{name}]\ncritique: c\nrevision: r\nchoice: {name}?" for name in ("kind", "true")
)


def described(folder, address, **fields):
    asks = {"kind": "remote", "address": address, "model": "m", "retries": 0}
    return judges.described(folder, **{"asks": asks, "template": TEMPLATE, **fields})


def test_a_verdict_is_written_after_a_critique_and_babble_is_unread(desk_items, tmp_path, capsys):
    def answer(text):
        number, first, second = sides(text)
        if number == 1:
            return judges.completion("Both are fine.")
        if number == 2:
            return 400  # such as a text that is too long
        better = 1 if first < second else 2
        return judges.completion(f"Answer {better} is clearer.\nVerdict: {better}")

    with judges.server(answer) as (address, seen):
        path = described(tmp_path, address, kind="generative", max_new_tokens=77)
        code, out, told = judges.run(capsys, desk_items, path)
        assert (code, "unread: 4 of 14" in out) == (1, True), told
        shorter = described(tmp_path, address, kind="generative", max_new_tokens=9)
        again = judges.run(capsys, desk_items, shorter)[1]
        assert "judged: 5 items" in again  # another length is another judge
    assert {body["max_tokens"] for _, body in seen} == {77, 9}
    assert all(body["temperature"] == 0 for _, body in seen)
    found = next(iter(judged(desk_items).values()))
    assert sorted(unread(found)) == [1, 2]
    assert found[0][0].logit > 5
    assert len(found[4]) == 3


def test_pairs_are_judged_by_a_principle_in_both_orders(desk_items, tmp_path, capsys):
    (tmp_path / "own.txt").write_text(PRINCIPLES)

    def answer(text):
        return judges.completion("1", **{"1": -1.0, "2": -2.0})

    with judges.server(answer) as (address, seen):
        asks = {"kind": "remote", "address": address, "model": "m", "template": TEMPLATE}
        path = judges.described(
            tmp_path, kind="constitution", path=f"{tmp_path}/own.txt", asks=asks
        )
        code, _, told = judges.run(capsys, desk_items, path)
        assert code == 0, told
        (tmp_path / "own.txt").write_text(PRINCIPLES.replace("true?", "honest?"))
        assert "judged: 5 items" in judges.run(capsys, desk_items, path)[1]  # another text
    asked = [body["messages"][0]["content"] for _, body in seen[:14]]
    by_pair = {}
    for text in asked:
        choice, rest = text.split("\n\n", 1)
        number, first, second = sides(rest)
        by_pair.setdefault((number, *sorted((first, second))), []).append(choice)
    assert len(by_pair) == 7
    assert all(len(own) == 2 and len(set(own)) == 1 for own in by_pair.values())
    assert {own[0] for own in by_pair.values()} == {"kind?", "true?"}


def test_statements_are_looked_up_and_verified(desk_items, tmp_path, capsys):
    pytest.importorskip("bm25s", reason="facts need alignjax[eval]")
    lines = [{"title": "", "text": f"answer a to {number} is known"} for number in range(5)]
    (tmp_path / "documents.jsonl").write_text("\n".join(map(json.dumps, lines)))

    def answer(text):
        passage, statement, _ = text.split(" | ")
        true = statement in passage
        return judges.completion("", yes=-0.1 if true else -4.0, no=-4.0 if true else -0.1)

    with judges.server(answer) as (address, seen):
        path = described(
            tmp_path, address, kind="facts", documents=f"{tmp_path}/documents.jsonl", passages=1,
            template="{prompt} | {answer} | {question}",
        )  # fmt: skip
        code, _, told = judges.run(capsys, desk_items, path)
        assert code == 0, told
    (found,) = judged(desk_items).values()
    assert found[0][0].logit == 2.0  # one is true, the other false: 1 - -1
    assert [pair.logit for pair in found[4]] == [2.0, 2.0, 0.0]
    asked = [body["messages"][0]["content"] for _, body in seen]
    assert len(asked) == len(set(asked)) == 4 * 2 + 3  # each statement once
    np.testing.assert_array_equal([p.one_first for p in found[4]], [p.two_first for p in found[4]])
