"""Own data prepared on disk: for every layout and kind the tables and tasks made in memory."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest
from etils import epath
from pyarrow import parquet

from alignjax.data import files, instructions, prepare
from tests.commands import open_model
from tests.data.conftest import SENTENCES
from tests.data.layouts.test_layouts import CASES
from tests.data.test_prepare import same


def cache(folder, **options):
    return prepare.Cache(folder=epath.Path(folder), **{"workers": 1, "rows": 7, **options})


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def corpora(config, place, **options):
    """The corpus in memory and the prepared one, with what they log."""
    lines = [[], []]
    memory = config.make(lines[0].append)
    return memory, config.prepared(lines[1].append, cache(place, **options)), lines


def compare(memory, stored, *, packed=True):
    assert stored.kinds == memory.kinds
    assert stored.summary == memory.summary
    assert stored.fingerprints == memory.fingerprints
    for split in ("train", "eval"):
        for kind in memory.kinds:
            same(stored.read(kind, split), memory.read(kind, split))
        tasks = memory.tasks(split)
        assert list(stored.tasks(split)) == [dict(task) for task in tasks]
        for number in range(len(tasks)):
            assert stored.conversation(split, number) == memory.conversation(split, number)


def config_of(path, **options):
    shared = {"vocab_size": 330, "length": 160, "prompt_length": 80, "holdout": 0.2, "pack": False}
    return files.FilesConfig(path=str(path), **shared | options)


def numbered(value, number):
    """A row like another, with its texts changed."""
    if isinstance(value, str):
        for word in ("garden", "soil", "Name", "two", "river"):
            value = value.replace(word, f"{word} {number}")
        return value
    if isinstance(value, list):
        return [numbered(entry, number) for entry in value]
    if isinstance(value, dict):
        return {name: numbered(entry, number) for name, entry in value.items()}
    return value


@pytest.mark.parametrize("case", CASES)
def test_every_layout_gives_the_tables_made_in_memory(case, tmp_path):
    name, fields, _ = CASES[case]
    if "call" in case:
        pytest.skip("our own layout of conversations has no calls")
    rows = [{**numbered(fields, n), **({"id": n} if "id" in fields else {})} for n in range(30)]
    if name == "kto":
        rows = [{**row, "label": n % 2 == 0} for n, row in enumerate(rows)]
    for n in (3, 9, 12):  # columns and weights that not every row has
        rows[n] |= {"weight": 2.5, "more": [1, None, "x"]}
    path = write(tmp_path / "rows.jsonl", rows)
    config = config_of(path, layout=name, vocab_size=300)
    config.categories = "unsafe,rude,safe,other" if name == "guard" else ""
    memory, stored, _ = corpora(config, tmp_path / "cache")
    if "tied" in case:
        memory, stored = (c._replace(kinds=("documents", "prompts")) for c in (memory, stored))
    compare(memory, stored)


def pairs(count=60):
    return [
        {"prompt": f"{SENTENCES[i % 5]} {i}", "chosen": SENTENCES[(i + 1) % 5],
         "rejected": SENTENCES[(i + 2) % 5], "source": f"s{i}"}
        for i in range(count)
    ]  # fmt: skip


def turned(row, **more):
    return {**row, "chosen": row["rejected"], "rejected": row["chosen"]} | more


@pytest.mark.parametrize("limit", [0, 1, 20])
def test_votes_are_joined_over_all_shards(limit, tmp_path):
    rows = pairs()
    for n in (2, 11, 40):
        rows += [rows[n], turned(rows[n]), {**rows[n], "weight": 0.3}, turned(rows[n], weight=1.7)]
    rows.append(turned(rows[5], preference=0.3))
    path = write(tmp_path / "rows.jsonl", rows)
    memory, stored, lines = corpora(config_of(path, train_rows=limit), tmp_path / "cache")
    assert "repeated pairs merged as votes" in memory.summary[0]
    compare(memory, stored)
    said = [line.partition(" in /")[0] for line in lines[1]]
    if limit != 1:  # weights of rows beyond a limit are said too
        assert said == lines[0]
    table = stored.read("pairs", "train")
    assert ("weight" in table) == (limit != 1)


def test_columns_that_one_shard_alone_needs_are_those_of_the_whole_table(tmp_path):
    rows = pairs(40)
    rows[30] |= {"margin": 2.5}
    rows[33] |= {"preference": 0.75}
    write(tmp_path / "data" / "a.train.jsonl", rows)
    write(tmp_path / "data" / "a.test.jsonl", rows[:9])
    memory, stored, _ = corpora(config_of(tmp_path / "data"), tmp_path / "cache")
    compare(memory, stored)
    assert {"margin", "preference"} < stored.read("pairs", "train").keys()
    assert not {"margin", "preference"} & stored.read("pairs", "eval").keys()


@pytest.mark.parametrize("rule", ["all", "best-worst", "best-random"])
def test_rankings_are_as_wide_as_the_widest_of_all_shards(rule, tmp_path):
    rows = [
        {"prompt": f"{SENTENCES[n % 5]} {n}",
         "answers": [{"answer": f"{SENTENCES[k % 5]} {k}", "rank": k // 2 if n % 3 else k}
                     for k in range(4 if n == 37 else 3 if n % 2 else 2)]}
        for n in range(50)
    ]  # fmt: skip
    path = write(tmp_path / "rows.jsonl", rows)
    config = config_of(path, pairs=rule, holdout=0.1, max_unusable_share=1.0)
    memory, stored, _ = corpora(config, tmp_path / "cache")
    compare(memory, stored)
    assert stored.read("rankings", "train")["tokens"].shape[1] == 4


def test_a_killed_widening_goes_on(tmp_path, monkeypatch):
    rows = pairs(40)
    rows[30] |= {"preference": 0.75}
    config = config_of(write(tmp_path / "rows.jsonl", rows))
    memory, stored, _ = corpora(config, tmp_path / "cache")
    widen, calls = prepare.widen_shard, []

    def killed(folder, spec, task):
        calls.append(task.number)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return widen(folder, spec, task)

    monkeypatch.setattr(prepare, "widen_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        stored.read("pairs", "train")
    monkeypatch.undo()
    same(stored.read("pairs", "train"), memory.read("pairs", "train"))


def test_broken_and_unusable_rows_are_dropped_and_said_as_in_memory(tmp_path):
    rows = pairs()
    rows[8] = turned(rows[8], rejected=rows[8]["rejected"])  # equal answers
    rows[9] |= {"id": 3}
    rows[30] |= {"id": 3}
    rows[20] = {"prompt": 5, "chosen": "a", "rejected": "b"}
    path = write(tmp_path / "rows.jsonl", rows)
    options = {"max_bad_share": 0.2, "max_unusable_share": 0.2}
    memory, stored, _ = corpora(config_of(path, on_bad_row="skip", **options), tmp_path / "cache")
    assert "1 chosen equals rejected, 1 duplicate id, 1 mistyped field" in memory.summary[0]
    compare(memory, stored)
    for strict in (config_of(path, **options), config_of(path, on_bad_row="skip")):
        with pytest.raises(ValueError) as one:
            strict.make(print)
        with pytest.raises(ValueError) as other:
            strict.prepared(print, cache(tmp_path / "cache"))
        assert str(one.value).partition(" In all")[0] == str(other.value).partition(" In all")[0]


def test_no_row_left_is_said_as_in_memory(tmp_path):
    config = config_of(write(tmp_path / "rows.jsonl", pairs(5)), holdout=0.0)
    for make in (config.make, lambda log: config.prepared(log, cache(tmp_path / "cache"))):
        with pytest.raises(ValueError, match="at least one usable row for split 'eval'"):
            make(print)


def test_packed_documents_of_text_files(tmp_path):
    for split, count in (("train", 400), ("test", 90)):
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        (folder / f"a_{split}.txt").write_text("\n\n".join(SENTENCES[n % 5] for n in range(count)))
    config = config_of(tmp_path / "data", pack=True, length=64, prompt_length=32)
    memory, stored, _ = corpora(config, tmp_path / "cache", rows=prepare.ROWS)
    assert stored.kinds == ("documents",)
    compare(memory, stored)


def test_parquet_text_with_columns_that_json_does_not_have(tmp_path):
    import datetime

    day = datetime.datetime(2019, 4, 25, 12, 57, 54)
    rows = [{"text": f"{SENTENCES[n % 5]} {n}", "timestamp": day, "url": f"u{n}"}
            for n in range(90)]  # fmt: skip
    for split, own in (("train", rows), ("validation", rows[:9])):
        parquet.write_table(
            pa.Table.from_pylist(own), tmp_path / f"c4-{split}.parquet", row_group_size=20
        )
    memory, stored, _ = corpora(config_of(tmp_path, pack=False), tmp_path / "cache")
    compare(memory, stored)
    assert stored.tasks("train")[3]["timestamp"] == "2019-04-25 12:57:54"


@pytest.mark.slow
def test_any_number_of_workers_makes_the_same_files(tmp_path):
    from tests.data.test_prepare import files as contents

    rows = pairs()
    rows += [turned(rows[n], weight=n / 7) for n in (3, 30, 31)]
    path = write(tmp_path / "rows.jsonl", rows)
    for count in (1, 2):
        config = config_of(path)
        stored = config.prepared(print, cache(tmp_path / str(count), workers=count))
        for kind in ("pairs", "prompts"):
            stored.read(kind, "train")
        assert stored.tasks("train")[2]["source"]
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_tasks_are_read_one_by_one(tmp_path, monkeypatch):
    config = config_of(write(tmp_path / "rows.jsonl", pairs()))
    stored = config.prepared(print, cache(tmp_path / "cache"))
    tasks = stored.tasks("train")
    read = []
    assert len(tasks) > 20
    assert not list((tmp_path / "cache" / "tables").glob("*/*.rows"))
    monkeypatch.setattr("alignjax.data.store.Stored.record", lambda self, row: read.append(row))
    with pytest.raises(TypeError):
        tasks[5]
    assert read == [5]
    with pytest.raises(IndexError):
        tasks[len(tasks)]


@pytest.fixture
def questions(tmp_path):
    pytest.importorskip("tokenizers", reason="tokenizers of open weights need alignjax[hf]")
    rows = [{"q": f"what is {n} and {n}?", "hint": "" if n % 2 else "count",
             "answer": f"#### {2 * n}", "level": n} for n in range(40)]  # fmt: skip
    write(tmp_path / "data" / "a.train.jsonl", rows)
    write(tmp_path / "data" / "a.test.jsonl", rows[:9])
    (tmp_path / "model").mkdir()
    open_model.write_tokenizer(tmp_path / "model")
    return instructions.InstructConfig(
        path=str(tmp_path / "data"), question="q", context="hint", length=96, prompt_length=64,
        tokenizer=str(tmp_path / "model"), template="chatml", pack=False,
    )  # fmt: skip


@pytest.mark.parametrize("limit", [0, 11])
def test_questions_give_the_tables_made_in_memory(limit, questions, tmp_path):
    config = dataclasses.replace(questions, train_rows=limit)
    memory, stored, lines = corpora(config, tmp_path / "cache")
    compare(memory, stored)
    assert [line.partition(" in /")[0] for line in lines[1]] == lines[0]


def test_a_question_without_its_field_is_said_as_in_memory(questions, tmp_path):
    write(tmp_path / "data" / "b.train.jsonl", [{"q": "what?", "hint": ""}])
    for make in (questions.make, lambda log: questions.prepared(log, cache(tmp_path / "cache"))):
        with pytest.raises(ValueError, match=r"answer must be given.*b\.train\.jsonl, line 1"):
            make(print)


def test_rows_of_calls_and_a_trained_tokenizer_are_kept(questions, tmp_path):
    name, fields, _ = next(case for key, case in CASES.items() if "call" in key)
    path = write(tmp_path / "calls.jsonl", [numbered(fields, n) for n in range(30)])
    config = config_of(path, tokenizer=questions.tokenizer, layout=name, template="qwen3")
    config.length, config.prompt_length, config.max_truncated_share = 1024, 768, 1.0
    memory, stored, _ = corpora(config, tmp_path / "cache")
    for number in range(3):
        assert stored.conversation("train", number) == memory.conversation("train", number)
    assert np.asarray(stored.read("prompts", "train")["index"]).tolist() == list(
        range(len(stored.tasks("train")))
    )
