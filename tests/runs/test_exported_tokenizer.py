"""What an exported folder says of its tokenizer, template and ends, and what the log says."""

import json
import types

import pytest

from alignjax.data import corpus as corpora
from alignjax.runs import exported_tokenizer
from alignjax.text import chat_format, tokenizer
from tests.text import template_cases as cases

JINJA = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"


def corpus_of(speaker):
    fields = {"vocab_size": 300, "pad": 0, "eos": 0 if speaker is None else speaker.eos_id}
    rest = {"length": 8, "prompt_length": 4, "kinds": (), "table": None, "text": None}
    return corpora.Corpus(**fields, **rest, fingerprints={}, speaker=speaker)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(cases.TOKENIZERS["bytes"].read_bytes())
    config = {"chat_template": JINJA, "eos_token": "<|im_end|>", "extra": 1}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(JINJA)
    return folder


@pytest.fixture
def to(tmp_path):
    (tmp_path / "to").mkdir()
    return tmp_path / "to"


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_a_folders_own_template_comes_along(source, to):
    other = chat_format.load_chat_format(source).special["<|eot_id|>"]
    stated = {"eos_token_id": [other], "temperature": 0.6}
    (source / "generation_config.json").write_text(json.dumps(stated))
    own = corpus_of(chat_format.load_chat_format(source))
    data = types.SimpleNamespace(tokenizer=str(source), template="")
    assert exported_tokenizer.write(data, own, "", to) == [f"with its tokenizer, {source}"]
    assert read(to, "generation_config.json") == {
        "eos_token_id": [own.eos, other], "temperature": 0.6
    }  # fmt: skip
    again = chat_format.load_chat_format(to)
    assert again.ends == own.ends
    assert again.template.source == JINJA


def test_a_template_that_was_not_trained_is_taken_away_and_told(source, to):
    own = corpus_of(chat_format.load_chat_format(source, template="chatml"))
    data = types.SimpleNamespace(tokenizer=str(source), template="chatml")
    _, line = exported_tokenizer.write(data, own, "", to)
    assert "trained with the template chatml" in line
    assert "--template=chatml" in line
    assert not (to / "chat_template.jinja").exists()
    assert read(to, "tokenizer_config.json") == {"eos_token": "<|im_end|>", "extra": 1}
    with pytest.raises(ValueError, match="a chat needs a template; got none"):
        chat_format.load_chat_format(to)


def test_our_own_tokenizer_is_written_with_its_ids(to):
    tok = tokenizer.train_tokenizer(["the answer is yes", "what is the answer"], 290)
    own = corpus_of(tok)
    assert "no chat template" in exported_tokenizer.write(None, own, "", to)[0]
    assert exported_tokenizer.ids(own)["eos_token_id"] == tok.eos_id
    assert chat_format.load_chat_format(to).tokenizer == tok


def test_what_cannot_be_written_is_told(to):
    assert "its data are ids" in exported_tokenizer.write(None, corpus_of(None), "", to)[0]
    form = chat_format.ChatFormat(tokenizer=types.SimpleNamespace(eos_id=1), template=None)
    data = types.SimpleNamespace(tokenizer="", template="")
    told = exported_tokenizer.write(data, corpus_of(form), "model.gguf", to)
    assert "without its tokenizer" in told[0]
    assert "model.gguf" in told[0]
    assert not list(to.iterdir())
