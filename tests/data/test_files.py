"""People's own files as a corpus: any layout and container, split, merged and fingerprinted."""

import dataclasses
import gzip
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from alignjax.data import files, layouts, reading, records, tables
from tests.data.conftest import SENTENCES
from tests.data.layouts.test_layouts import CASES


def made(config):
    lines = []
    return config.make(lines.append), lines


def pairs(count=40):
    return [
        {"prompt": f"{SENTENCES[i % 5]} {i}", "chosen": SENTENCES[(i + 1) % 5],
         "rejected": SENTENCES[(i + 2) % 5], "source": f"s{i}"}
        for i in range(count)
    ]  # fmt: skip


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def config(tmp_path):
    path = write(tmp_path / "rows.jsonl", pairs())
    return files.FilesConfig(path=path, vocab_size=330, length=160, prompt_length=80, holdout=0.2)


def test_the_layout_is_said_in_one_line_and_every_kind_is_a_table(config):
    corpus, lines = made(config)
    assert lines[0].startswith("layout pairs, by its fields: ")
    assert corpus.kinds == (
        "documents", "demonstrations", "pairs", "rankings", "unpaired", "prompts",
    )  # fmt: skip
    for kind in corpus.kinds:
        for split in ("train", "eval"):
            corpus.read(kind, split)  # compared with the contract
    assert set(corpus.kinds) <= set(config.outline().kinds)
    assert any(line.startswith("pairs of train: read ") for line in lines)


@pytest.mark.parametrize("case", CASES)
def test_every_layout_becomes_a_corpus(case, tmp_path):
    name, fields, _ = CASES[case]
    if "call" in case:
        pytest.skip("our own layout of conversations has no calls: see test_calls")
    fields = {key: value for key, value in fields.items() if key != "id"}
    if name == "kto":  # an undesirable answer is no demonstration
        data = [{**fields, "label": i % 2 == 0} for i in range(30)]
    else:
        data = [fields] * 30
    for key in {"conversation_id", "prompt_id"} & set(fields):
        data = [{**row, key: f"{i}"} for i, row in enumerate(data)]
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "x.train.jsonl", data)
    write(folder / "x.test.jsonl", data[:3])
    config = files.FilesConfig(path=str(folder), vocab_size=290, length=160, prompt_length=120)
    config.categories = "unsafe,rude,safe,other" if name == "guard" else ""
    corpus, lines = made(config)
    assert lines[0].startswith(f"layout {name}, ")
    tried = [kind for kind in corpus.kinds if not ("tied" in case and kind != "documents")]
    for kind in tried:
        assert len(next(iter(corpus.read(kind, "eval").values())))
    if "documents" in tried:  # count every token that has one before it
        rows = corpus.read("documents", "eval")
        real = np.asarray(rows["segments"]) > 0
        firsts = real & (np.asarray(rows["positions"]) == 0)
        np.testing.assert_array_equal(np.asarray(rows["loss_mask"]) | firsts, real)
    assert set(corpus.kinds) <= set(tables.KINDS)


def test_a_prompt_finds_its_columns_and_conversation_by_its_index(config):
    corpus, _ = made(config)
    table, tasks = corpus.read("prompts", "train"), corpus.tasks("train")
    source = {row["prompt"]: row["source"] for row in pairs()}
    assert len(tasks) == len(table["index"])
    for ids, length, index in zip(table["prompts"], table["lengths"], table["index"], strict=True):
        text = tasks[index]["prompt"]
        assert tasks[index]["source"] == source[text]
        assert text in corpus.text(ids[:length])
        assert corpus.conversation("train", index)[0].text == text


def test_a_hold_out_parts_prompts_and_depends_on_the_row_alone(config, tmp_path):
    rows = [{**row, "chosen": row["chosen"] + extra} for row in pairs(100) for extra in ("", "!")]
    config.path = write(tmp_path / "many.jsonl", rows)
    corpus, _ = made(config)
    train, held = ({task["prompt"] for task in corpus.tasks(s)} for s in ("train", "eval"))
    assert not train & held
    assert len(train | held) == 100
    assert 8 <= len(held) <= 35
    config.path = write(tmp_path / "many.jsonl", rows[::-1][:150])
    again, _ = made(config)
    assert {task["prompt"] for task in again.tasks("eval")} <= held


def test_names_decide_the_split_before_a_hold_out(config, tmp_path):
    folder = tmp_path / "named"
    folder.mkdir()
    write(folder / "a.train.jsonl", pairs(20))
    write(folder / "a.test.jsonl", pairs(4))
    corpus, _ = made(dataclasses.replace(config, path=str(folder)))
    assert (len(corpus.tasks("train")), len(corpus.tasks("eval"))) == (20, 4)
    limited, _ = made(dataclasses.replace(config, path=str(folder), train_rows=7, eval_rows=2))
    assert (len(limited.tasks("train")), len(limited.tasks("eval"))) == (7, 2)


def test_votes_are_merged_and_reach_the_table(config, tmp_path):
    rows = pairs(10)
    first = rows[0]
    turned = {**first, "chosen": first["rejected"], "rejected": first["chosen"]}
    folder = tmp_path / "votes"
    folder.mkdir()
    write(folder / "a.train.jsonl", [*rows, first, turned, first])
    write(folder / "a.test.jsonl", rows[1:3])
    corpus, _ = made(dataclasses.replace(config, path=str(folder)))
    assert "3 repeated pairs merged as votes" in corpus.summary[0]
    table = corpus.read("pairs", "train")
    assert len(table["tokens"]) == 10
    assert table["preference"][0, 0] == 0.75
    assert table["weight"][:2].tolist() == [4.0, 1.0]
    assert not {"preference", "weight"} & corpus.read("pairs", "eval").keys()


def test_weights_that_no_table_reads_are_said(config, tmp_path):
    config.path = write(tmp_path / "w.jsonl", [{**row, "weight": 2} for row in pairs()])
    corpus, lines = made(config)
    corpus.read("demonstrations", "train")
    assert "weights of rows are read in pairs and labels" in lines[-1]


def test_the_same_rows_in_every_container_give_the_same_table(config, tmp_path):
    reference = made(config)[0].read("pairs", "train")
    rows = pairs()
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for name in ("rows.jsonl.gz", "rows.json", "rows.parquet"):
        config.path = str(tmp_path / name)
        table = made(config)[0].read("pairs", "train")
        for column, array in reference.items():
            np.testing.assert_array_equal(array, table[column])


def test_fingerprints_follow_contents_layout_and_selection(config, tmp_path):
    def of(**changes):
        return made(dataclasses.replace(config, **changes))[0].fingerprints["train"]

    first = of()
    assert first == of() == of(pack=False, length=128)
    assert len({first, of(train_rows=9), of(holdout=0.3), of(fields="system=source")}) == 4
    write(tmp_path / "rows.jsonl", pairs(41))
    assert of() != first


def test_fields_are_renamed(config, tmp_path):
    names = {"prompt": "query", "chosen": "best", "rejected": "worst"}
    back = [{names.get(k, k): v for k, v in row.items()} for row in pairs()]
    config.path = write(tmp_path / "named.jsonl", back)
    with pytest.raises(records.DataError, match=r"got the fields query \(string\), best"):
        made(config)
    config.fields = "prompt=query, chosen=best,rejected=worst"
    assert "pairs" in made(config)[0].kinds


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fields": "prompt"}, "data.fields must read layout's=yours"),
        ({"layout": "pair"}, "data.layout must be one of .*Did you mean 'pairs'"),
        ({"pairs": "worst"}, "data.pairs must be one of best-worst"),
        ({"on_bad_row": "ignore"}, "data.on_bad_row must be one of"),
        ({"prompt_length": 160}, "data.prompt_length must be below data.length"),
        ({"holdout": 1.0}, "data.holdout must be"),
        ({"max_bad_share": float("nan")}, "data.max_bad_share must be"),
        ({"path": "absent.jsonl"}, "data path must exist"),
        ({"holdout": 0.0}, "hold at least one usable row for split 'eval'"),
    ],
)
def test_bad_options_are_one_line(config, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        made(dataclasses.replace(config, **changes))
    assert "\n" not in str(error.value)


def test_broken_rows_stop_or_are_counted_and_unusable_ones_are_dropped(config, tmp_path):
    rows = pairs()
    rows[3]["rejected"] = rows[3]["chosen"]
    config.path = write(tmp_path / "bad.jsonl", rows)
    corpus, _ = made(config)
    assert "dropped: 1 chosen equals rejected" in corpus.summary[0]
    with pytest.raises(records.DataError, match=r"line 4.*above data.max_unusable_share = 0.0"):
        made(dataclasses.replace(config, max_unusable_share=0.0))
    rows[5]["chosen"] = 7
    config.path = write(tmp_path / "bad.jsonl", rows)
    with pytest.raises(records.DataError, match=r"chosen must be a list; got number .*line 6"):
        made(config)
    with pytest.raises(records.DataError, match=r"1 of 40 rows \(1 mistyped field\), above"):
        made(dataclasses.replace(config, on_bad_row="skip"))
    corpus, _ = made(dataclasses.replace(config, on_bad_row="skip", max_bad_share=0.05))
    assert "1 mistyped field" in corpus.summary[0]


def test_duplicate_ids_are_refused(config, tmp_path):
    rows = [{**row, "id": i % 30} for i, row in enumerate(pairs())]
    config.path = write(tmp_path / "ids.jsonl", rows)
    with pytest.raises(records.DataError, match=r"id must be unique; .*line 31"):
        made(config)


def test_empty_data_say_so(config, tmp_path):
    config.path = write(tmp_path / "none.jsonl", [])
    with pytest.raises(records.DataError, match="data must hold at least one row; got none"):
        made(config)
    (tmp_path / "none.jsonl").write_text("{\n")
    with pytest.raises(records.DataError, match=r"one whole JSON object.*line 1"):
        made(config)


def test_the_rows_are_those_of_the_reader_of_hh(hh_rlhf):
    """The second reading of hh-rlhf in this package: the same pairs, but for repeated ones."""
    from alignjax.data import containers, sources

    old = sources.read_preferences(hh_rlhf, split="eval", max_unusable_share=0.05)
    parts, _ = containers.split_parts(hh_rlhf, split="eval")
    source = reading.Source(layout=layouts.LAYOUTS["hh"])
    new = list(reading.read(parts, source, reading.Tally()))
    assert [(row.prompt, row.chosen, row.rejected, row.line) for row in old.rows] == [
        (row.prompt, *row.answers, row.line) for row in new
    ]


TFDS = """
import json, os, sys
import numpy as np
import tensorflow_datasets as tfds
sys.path.insert(0, {repo!r})
from alignjax.data import files, records
rows = json.load(sys.stdin)

class Talks(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="en"), tfds.core.BuilderConfig(name="de")]
    def _info(self):
        text = tfds.features.Text()
        turn = tfds.features.Sequence({{"role": text, "content": text}})
        features = tfds.features.FeaturesDict(
            {{"prompt": text, "chosen": turn, "rejected": turn, "weight": np.float32}})
        return tfds.core.DatasetInfo(builder=self, features=features)
    def _split_generators(self, manager):
        return {{"train": self._generate_examples(rows[:-2]),
                "test": self._generate_examples(rows[-2:])}}
    def _generate_examples(self, part):
        yield from enumerate(part)

folder = sys.argv[1]
Talks(config="en", data_dir=folder, file_format="array_record").download_and_prepare()
os.environ["TFDS_DATA_DIR"] = folder
sizes = dict(vocab_size=330, length=160, prompt_length=80)
said = []
for name in ("talks/en:1.2.0", "talks/en", "talks"):
    corpus = files.FilesConfig(tfds=name, **sizes).make(said.append)
    table = corpus.read("pairs", "train")
prompts = sorted(task["prompt"] for task in corpus.tasks("train"))
refused = []
for name in ("talk/en", "talks/en:9.9.9", "c4/en:3.0.1"):
    try:
        files.FilesConfig(tfds=name, **sizes).make(said.append)
    except records.DataError as error:
        refused.append(str(error))
assert "tensorflow" not in sys.modules
print(json.dumps([prompts, said[0], table["weight"].tolist(), refused]))
"""


def test_a_tfds_data_set_by_name_without_tensorflow(tmp_path):
    pytest.importorskip("tensorflow_datasets", reason="tensorflow-datasets is not installed")
    repo = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

    def side(text):
        return {"role": ["assistant"], "content": [text]}

    rows = [
        {**{k: row[k] for k in ("prompt",)}, "weight": 2.0, "chosen": side(row["chosen"]),
         "rejected": side(row["rejected"])}
        for row in pairs(30)
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", TFDS.format(repo=repo), str(tmp_path)],
        input=json.dumps(rows), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    prompts, said, weight, refused = json.loads(done.stdout.splitlines()[-1])
    assert prompts == sorted(row["prompt"] for row in rows[:-2])
    assert said.startswith("layout pairs, ")
    assert set(weight) == {2.0}
    for text in refused:
        assert "data.tfds must name a prepared data set of TFDS_DATA_DIR" in text
        assert "Nearest: talks/en:1.2.0." in text


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a model's tokenizer."""
    pytest.importorskip("tokenizers", reason="tokenizers of open weights need alignjax[hf]")
    from tests.commands import open_model

    folder = tmp_path_factory.mktemp("model")
    open_model.write_tokenizer(folder)
    return str(folder)


def same_tables(one, other, kinds):
    for kind in kinds:
        for split in ("train", "eval"):
            tables_ = [corpus.read(kind, split) for corpus in (one, other)]
            for name, array in tables_[0].items():
                np.testing.assert_array_equal(array, tables_[1][name], err_msg=f"{kind} {name}")


def test_transcripts_give_the_tables_of_the_configuration_of_hh(model, tmp_path):
    from alignjax.data import hh

    folder = tmp_path / "hh"
    folder.mkdir()
    turns = "\n\nHuman: {prompt}\n\nAssistant: {first}\n\nHuman: more?\n\nAssistant: "
    rows = []
    for row in pairs(20):
        start = turns.format(prompt=row["prompt"], first=row["chosen"])
        rows.append({side: start + row[side] for side in ("chosen", "rejected")})
    write(folder / "a.train.jsonl", rows)
    write(folder / "a.test.jsonl", rows[:4])
    shared = {
        "path": str(folder), "tokenizer": model, "template": "chatml", "length": 512,
        "prompt_length": 256,
    }  # fmt: skip
    one, _ = made(hh.HhConfig(**shared))
    other, _ = made(files.FilesConfig(**shared))
    same_tables(one, other, hh.KINDS)


def test_questions_give_the_tables_and_tasks_of_their_configuration(model, tmp_path):
    from alignjax.data import instructions
    from alignjax.rewards import combine, rules

    folder = tmp_path / "qa"
    folder.mkdir()
    rows = [{"question": f"what is {n} and {n}?", "answer": f"#### {2 * n}", "level": n}
            for n in range(12)]  # fmt: skip
    write(folder / "a.train.jsonl", rows)
    write(folder / "a.test.jsonl", rows[:4])
    shared = {
        "path": str(folder), "tokenizer": model, "template": "chatml", "length": 128,
        "prompt_length": 64,
    }  # fmt: skip
    one, _ = made(instructions.InstructConfig(**shared))
    other, _ = made(files.FilesConfig(**shared))
    same_tables(one, other, instructions.KINDS)
    assert one.tasks("train") == other.tasks("train")
    given = {"correct": rules.ExactNumber(take="marked")}
    assert not combine.check_tasks(given, other.tasks("train")).any()


def test_what_workers_need_reaches_them():
    """A layout goes by its name; parts and rows are plain."""
    import pickle

    from alignjax.data import containers

    source = reading.Source(layout=layouts.LAYOUTS["kto"], fields={"prompt": "query"})
    part = containers.parts(__file__)[0]
    for value in (source, part, *(layouts.LAYOUTS.values())):
        assert pickle.loads(pickle.dumps(value)) == value
