"""Passages by BM25: the best first, ties in order, files of text and JSONL, refusals in a line."""

import importlib.util
import json

import pytest

from alignjax.data import retrieval

PASSAGES = [
    "Rome is the capital of Italy and lies on the Tiber.",
    "Paris is the capital of France.",
    "Cats sleep.",
    "Cats sleep.",
]


@pytest.fixture
def find():
    pytest.importorskip("bm25s", reason="retrieval needs alignjax[eval]")
    return retrieval.index(PASSAGES, count=2)


def test_the_best_comes_first_and_nothing_where_no_word_is_known(find):
    found = find(["What is the capital of Italy?", "quarks", "cats", ""])
    assert found == [[PASSAGES[0], PASSAGES[1]], [], [PASSAGES[2], PASSAGES[3]], []]
    assert find(["CAPITAL, of France!"])[0][0] == PASSAGES[1]


def test_files_of_text_and_of_lines(tmp_path):
    (tmp_path / "own.txt").write_text("one two\nthree\n\n\nfour\n")
    assert retrieval.read(f"{tmp_path}/own.txt") == ["one two three", "four"]
    long = " ".join(map(str, range(retrieval.WORDS + 1)))
    lines = [{"title": "T", "text": long}, {"text": "bare", "more": 1}]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    first, second, third = retrieval.read(f"{tmp_path}/own.jsonl")
    assert first.startswith("T: 0 1 2")
    assert (second, third) == (f"T: {retrieval.WORDS}", "bare")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", None, "must be a file of text; got .*FileNotFoundError"),
        ("a.txt", "\n \n", "must hold a text at least"),
        ("a.jsonl", '{"text": "x"}\n[1]\n', r"must be like .*a.jsonl:2"),
        ("a.jsonl", '{"text": 3}', r"must be like .*a.jsonl:1"),
        ("a.jsonl", "{", r"must be like .*a.jsonl:1"),
    ],
)
def test_bad_files_are_refused(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        retrieval.read(f"{tmp_path}/{name}")


def test_bad_options_and_a_missing_package_are_refused(find, monkeypatch):
    with pytest.raises(ValueError, match="passages of a query must be"):
        retrieval.index(PASSAGES, count=0)
    with pytest.raises(ValueError, match="a passage at least"):
        retrieval.index([])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package bm25s; .*'alignjax\[eval\]'"):
        retrieval.index(PASSAGES)
