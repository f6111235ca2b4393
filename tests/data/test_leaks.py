"""Rows for evaluation among those for training: counted, and refused above a share."""

import json

import numpy as np
import pytest
from etils import epath

from alignjax.data import check, files, hh, instructions, leaks, prepare, sources
from tests.commands import open_model

WORDS = [
    "river",
    "mill",
    "sea",
    "bread",
    "flour",
    "water",
    "salt",
    "time",
    "garden",
    "green",
    "summer",
    "soil",
    "straw",
    "help",
]
SAID = "\n\nHuman: {}\n\nAssistant: {}"


def ask(n):
    return f"Is the {WORDS[n % 13]} of the {WORDS[n % 14]} by {n}?"


# How a row with a number is written in each kind of corpus.
ROWS = {
    "hh": lambda n: {"chosen": SAID.format(ask(n), "Yes."), "rejected": SAID.format(ask(n), "No.")},
    "files": lambda n: {"prompt": ask(n), "chosen": "Yes.", "rejected": "No."},
    "demonstrations": lambda n: {"prompt": ask(n), "completion": f"It is {n}."},
    "text": lambda n: {"text": f"{ask(n)} They say so, and nothing else."},
    "questions": lambda n: {"question": ask(n), "answer": f"It is {n}."},
}


def write(folder, kind, split, numbers):
    folder.mkdir(exist_ok=True)
    lines = [json.dumps(ROWS[kind](n)) for n in numbers]
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


def config_of(folder, kind, **options):
    if kind == "questions":
        (folder.parent / "model").mkdir(exist_ok=True)
        open_model.write_tokenizer(folder.parent / "model")
        return instructions.InstructConfig(
            path=str(folder), tokenizer=str(folder.parent / "model"), template="chatml", **options
        )
    made = hh.HhConfig if kind == "hh" else files.FilesConfig
    return made(path=str(folder), vocab_size=300, length=96, prompt_length=64, **options)


def corpora(config, place):
    yield lambda: config.make(lambda line: None)
    cache = prepare.Cache(folder=epath.Path(place), workers=1, rows=7)
    yield lambda: config.prepared(lambda line: None, cache)
    yield lambda: config.prepared(lambda line: None, cache)  # of what was counted before


@pytest.mark.parametrize("kind", ROWS)
def test_rows_on_both_sides_are_said_and_above_a_share_refused(kind, tmp_path):
    folder = tmp_path / "data"
    write(folder, kind, "train", range(80))
    write(folder, kind, "test", range(68, 188))  # 12 of 120: no more than a tenth
    for make in corpora(config_of(folder, kind), tmp_path / "cache"):
        (line,) = (line for line in make().summary if "leaked" in line)
        assert line == "leaked: 12 of 120 eval rows stand among training rows"
    stricter = config_of(folder, kind, max_leaked_share=0.09)
    for make in corpora(stricter, tmp_path / "cache"):
        with pytest.raises(sources.DataError, match=r"max_leaked_share = 0.09; got 12 of 120 that"):
            make()
    # Eval rows that no one reads are none that tell of a leak.
    write(folder, kind, "test", (*range(100, 140), *range(40)))
    for make in corpora(config_of(folder, kind, eval_rows=40), tmp_path / "cache"):
        assert not [line for line in make().summary if "leaked" in line]
    # Nor training rows that no one trains on.
    for make in corpora(config_of(folder, kind, train_rows=5), tmp_path / "cache"):
        assert "leaked: 5 of 80 eval rows stand among training rows" in make().summary


@pytest.mark.parametrize("held", [range(9), range(100, 140)])
def test_few_rows_and_others_are_never_refused(held, tmp_path):
    write(tmp_path / "data", "files", "train", range(80))
    write(tmp_path / "data", "files", "test", held)
    for make in corpora(config_of(tmp_path / "data", "files"), tmp_path / "cache"):
        leaked = [line for line in make().summary if "leaked" in line]
        assert len(leaked) == (held[0] == 0)


@pytest.mark.parametrize("kind", ["files", "hh"])
def test_a_pair_is_one_whichever_answer_is_better_and_however_often_it_was_judged(kind, tmp_path):
    folder = tmp_path / "data"
    again = range(12) if kind == "files" else ()
    write(folder, kind, "train", [*range(40), *again])
    rows = [ROWS[kind](n) for n in range(12)]
    turned = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, turned)) + "\n")
    config = config_of(folder, kind, max_leaked_share=1.0)
    for make in corpora(config, tmp_path / "cache"):
        assert "leaked: 12 of 12 eval rows stand among training rows" in make().summary
    lines = check.check_data(folder, max_leaked_share=1.0).lines
    assert "leaked: 12 of 12 rows for evaluation stand in training" in lines


def test_the_checker_has_the_trainers_limit(tmp_path):
    write(tmp_path / "data", "files", "train", range(80))
    write(tmp_path / "data", "files", "test", range(60, 100))
    with pytest.raises(sources.DataError, match=r"eval rows must be others .*; got 20 of 40"):
        check.check_data(tmp_path / "data")
    lines = check.check_data(tmp_path / "data", max_leaked_share=0.5).lines
    assert "leaked: 20 of 40 rows for evaluation stand in training" in lines


def test_a_changed_training_file_is_counted_anew(tmp_path):
    folder = tmp_path / "data"
    write(folder, "files", "test", range(20))
    for train, is_leaked in ((range(50, 90), False), (range(80), True)):
        write(folder, "files", "train", train)
        _, make, _ = corpora(config_of(folder, "files", max_leaked_share=1.0), tmp_path / "cache")
        assert [line for line in make().summary if "leaked" in line] == [
            "leaked: 20 of 20 eval rows stand among training rows"
        ] * is_leaked


def test_a_source_of_many_rows_is_told_in_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(leaks, "ROWS", 10)
    folder = epath.Path(tmp_path)
    parts = np.random.default_rng(0).integers(0, 256, (7, 6, 16)).astype(np.uint8)
    count = leaks.write(folder, parts)
    assert count == 4
    found = np.concatenate(list(leaks.read(folder, count)))
    assert found.tolist() == [leaks.number(bytes(row)) for row in parts.reshape(-1, 16)]
