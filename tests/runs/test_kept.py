"""A run's folder is enough to read and write text with: its data and weights may be gone."""

import json
import pathlib
import shutil

import gguf
import numpy as np
import pytest

from alignjax.data import files, hh, instructions
from alignjax.models.checkpoints import gguf_io
from alignjax.runs import bases, continuing, experiment, folder, kept, records
from alignjax.text import chat
from tests.text import small_tokenizers, test_tokenizer_loading
from tests.text import template_cases as cases

TURNS = [chat.Turn("human", "Is the tide of 12 late?")]
JINJA = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"


@pytest.fixture
def place(tmp_path):
    """A folder of rows, and one of a model's tokenizer."""
    rows = tmp_path / "here" / "rows"
    rows.mkdir(parents=True)
    for split in ("train", "eval"):
        lines = [{"question": f"Is it {n}?", "answer": f"It is not {n}."} for n in range(8)]
        (rows / f"{split}.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    model = tmp_path / "here" / "model"
    model.mkdir()
    shutil.copyfile(cases.TOKENIZERS["bytes"], model / "tokenizer.json")
    config = {"chat_template": JINJA, "eos_token": "<|im_end|>", "pad_token": "<|eot_id|>"}
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [3]}))
    test_tokenizer_loading.gguf_file(
        tmp_path / "here" / "model.gguf", small_tokenizers.gguf_fields()
    )
    return tmp_path / "here"


def hh_rows(place):
    text = "\n\nHuman: Is the tide {}?\n\nAssistant: {} it is."
    rows = [{"chosen": text.format(n, "Yes,"), "rejected": text.format(n, "No,")} for n in range(9)]
    (place / "hh").mkdir()
    (place / "hh" / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return hh.HhConfig(path=str(place / "hh"), vocab_size=300)


MADE = {
    "own": hh_rows,
    "own in any layout": lambda place: files.FilesConfig(
        path=str(hh_rows(place).path), vocab_size=300, holdout=0.3
    ),
    "folder": lambda place: instructions.InstructConfig(
        path=str(place / "rows"), tokenizer=str(place / "model"), tools=cases.TOOLS[:1]
    ),
    "folder, other template": lambda place: instructions.InstructConfig(
        path=str(place / "rows"), tokenizer=str(place / "model"), template="chatml",
    ),
    "file": lambda place: instructions.InstructConfig(
        path=str(place / "rows"), tokenizer=str(place / "model" / "tokenizer.json"),
        template="chatml", pad="<|eot_id|>",
    ),
    "gguf": lambda place: instructions.InstructConfig(
        path=str(place / "rows"), tokenizer=str(place / "model.gguf"), template="chatml"
    ),
}  # fmt: skip


def begun(data, workdir):
    """(the corpus of a run that begins, its record) with what its folder keeps written."""
    config = experiment.Experiment(data=data)
    corpus = data.make(lambda line: None)
    values = records.as_json(folder.describe(config, corpus, formula="", start={}))
    workdir.mkdir()
    kept.write(workdir, config, corpus)
    return corpus, folder.Record(config, values)


@pytest.mark.parametrize("kind", MADE)
def test_text_is_read_and_written_as_before_when_all_is_gone(kind, place, tmp_path):
    corpus, record = begun(MADE[kind](place), tmp_path / "run")
    before = chat.encode_chat(corpus.speaker, TURNS, generation_prompt=True)[0]
    shutil.rmtree(place)
    moved, lines = tmp_path / "moved", []
    (tmp_path / "run").rename(moved)
    again = kept.corpus_of(moved, record, lines.append)
    assert len(lines) == 1
    assert f"{moved}: its own tokenizer is used, and no rows of its data" in lines[0]
    assert chat.encode_chat(again.speaker, TURNS, generation_prompt=True)[0] == before
    assert again.text(np.array(before)) == corpus.text(np.array(before))
    same = ("vocab_size", "pad", "eos", "ends", "length", "prompt_length", "kinds", "steps")
    assert [getattr(again, n) for n in same] == [getattr(corpus, n) for n in same]
    assert again.fingerprints == corpus.fingerprints
    for rows in (
        lambda: again.read("prompts", "eval"),
        lambda: again.conversation("eval", 0),
        lambda: again.tasks("eval"),
    ):
        with pytest.raises(ValueError, match=r"rows of a run's data must be where.*Put the data"):
            rows()


def test_data_that_are_there_are_read(place, tmp_path):
    _, record = begun(MADE["own"](place), tmp_path / "run")
    lines = []
    assert kept.corpus_of(tmp_path / "run", record, lines.append).read("prompts", "eval")
    assert lines == []


def test_other_data_in_its_place_do_not_bring_another_tokenizer(place, tmp_path):
    corpus, record = begun(MADE["own"](place), tmp_path / "run")
    file = place / "hh" / "rows.jsonl"
    file.write_text(file.read_text().replace("tide", "wonderful weather"))
    lines = []
    again = kept.corpus_of(tmp_path / "run", record, lines.append)
    assert "another tokenizer now" in lines[0]
    assert again.speaker.fingerprint == corpus.speaker.fingerprint


def test_a_kept_tokenizer_that_changed_is_refused(place, tmp_path):
    _, record = begun(MADE["folder"](place), tmp_path / "run")
    shutil.rmtree(place)
    file = tmp_path / "run" / folder.TOKENIZER / "tokenizer_config.json"
    file.write_text(file.read_text().replace("m.content", "m.role"))
    with pytest.raises(ValueError, match="the tokenizer that a run keeps must be the one"):
        kept.corpus_of(tmp_path / "run", record, lambda line: None)


def test_a_run_that_kept_nothing_says_what_it_did(place, tmp_path):
    _, record = begun(MADE["folder"](place), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / folder.TOKENIZER)
    shutil.rmtree(place)
    with pytest.raises(ValueError, match="must be a readable file"):
        kept.corpus_of(tmp_path / "run", record, lambda line: None)


def test_a_refused_run_leaves_nothing_of_it(place, tmp_path):
    run = tmp_path / "run"

    def refused():
        with continuing.withdrawn_if_refused(run):
            begun(MADE["folder"](place), run)
            (run / folder.FILE).write_text("{}")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        refused()
    assert list(run.iterdir()) == []


def test_a_gguf_without_tensors_holds_its_metadata(tmp_path):
    whole = tmp_path / "whole.gguf"
    writer = gguf.GGUFWriter(whole, "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.add_float32("some.number", 0.5)
    writer.add_tensor("weight", np.ones((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    small = tmp_path / "small.gguf"
    small.write_bytes(gguf_io.without_tensors(whole))
    before, after = gguf_io.open_file(whole), gguf_io.open_file(small)
    assert set(before.tensors) == {"weight"}
    assert after.tensors == {}
    assert after.metadata == before.metadata
    assert small.stat().st_size < whole.stat().st_size - 4 * 32 * 4


def test_frozen_weights_that_moved_are_named_and_may_be_told(tmp_path, monkeypatch):
    monkeypatch.setattr(bases, "_STAND_IN", [])
    there = tmp_path / "there"
    there.mkdir()
    gone = str(tmp_path / "gone")
    with pytest.raises(ValueError, match=rf"got {gone}, which is not there.*--base=FOLDER"):
        bases.place(gone)
    bases.stand_in(str(there))
    assert bases.place(gone) == str(there)
    other = pathlib.Path(tmp_path / "other")
    other.mkdir()
    assert bases.place(str(other)) == str(other)
