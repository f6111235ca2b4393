"""What a path holds decides the tokenizer; what it should not hold is refused in one line."""

import json

import pytest

from alignjax.text import tokenizer as own
from alignjax.text.tokenizers import load
from tests.text import small_tokenizers as small

CONFIG = {
    "eos_token": {"content": "<|im_end|>", "special": True},
    "pad_token": "<|endoftext|>",
    "bos_token": None,
    "chat_template": "{{ messages }}",
}


def write(folder, name, content):
    content = json.dumps(content) if isinstance(content, dict) else content
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def gguf_file(path, fields):
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(fields["tokenizer.ggml.model"])
    writer.add_tokenizer_pre(fields["tokenizer.ggml.pre"])
    writer.add_token_list(fields["tokenizer.ggml.tokens"])
    writer.add_token_types(fields["tokenizer.ggml.token_type"])
    writer.add_token_merges(fields["tokenizer.ggml.merges"])
    writer.add_bos_token_id(fields["tokenizer.ggml.bos_token_id"])
    writer.add_eos_token_id(fields["tokenizer.ggml.eos_token_id"])
    writer.add_pad_token_id(fields["tokenizer.ggml.padding_token_id"])
    writer.add_chat_template("{{ 1 }}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def test_a_model_folder(tmp_path):
    write(tmp_path, "tokenizer.json", small.byte_level())
    write(tmp_path, "special_tokens_map.json", {"eos_token": "<|endoftext|>"})
    write(tmp_path, "tokenizer_config.json", CONFIG)
    write(tmp_path, "tokenization_evil.py", "raise SystemExit")
    tok = load.load_tokenizer(tmp_path)
    special = tok.special
    assert (tok.origin, tok.bos_id) == ("tokenizer.json", None)
    assert (tok.eos_id, tok.pad_id) == (special["<|im_end|>"], special["<|endoftext|>"])
    assert tok.chat_template == "{{ messages }}"
    bare = load.load_tokenizer(tmp_path / "tokenizer.json")
    assert (bare.eos_id, bare.encode("a mill")) == (None, tok.encode("a mill"))
    assert bare.fingerprint != tok.fingerprint


def test_a_sentencepiece_folder_with_added_tokens(tmp_path):
    write(tmp_path, "tokenizer.model", small.sentencepiece_model())
    added = {"1": {"content": "<s>"}, "420": {"content": "<pad>"}}
    write(tmp_path, "tokenizer_config.json", {"added_tokens_decoder": added, "pad_token": "<pad>"})
    tok = load.load_tokenizer(tmp_path)
    assert (tok.origin, tok.pad_id, tok.bos_id, tok.eos_id) == ("sentencepiece", 420, 1, 2)
    assert load.load_tokenizer(tmp_path / "tokenizer.model").pad_id is None
    added["1"] = {"content": "<x>"}
    write(tmp_path, "tokenizer_config.json", {"added_tokens_decoder": added})
    with pytest.raises(ValueError, match="added token 1 must be '<s>'"):
        load.load_tokenizer(tmp_path)


def test_legacy_false_means_no_space_after_control_tokens(tmp_path):
    write(tmp_path, "tokenizer.model", small.sentencepiece_model())
    write(tmp_path, "tokenizer_config.json", {"legacy": True})
    old = load.load_tokenizer(tmp_path)
    write(tmp_path, "tokenizer_config.json", {"legacy": False})
    new = load.load_tokenizer(tmp_path)
    assert new.encode("mill") == old.encode("mill") == old.encode("mill", "special")
    assert new.encode("mill", "special") == old.encode("mill", "text") != old.encode("mill")
    assert new.fingerprint != old.fingerprint


def test_our_own_model(tok, tmp_path):
    tok.save(tmp_path / "tokenizer.model")
    for path in (tmp_path, tmp_path / "tokenizer.model"):
        assert load.load_tokenizer(path) == tok
        assert isinstance(load.load_tokenizer(path), own.Tokenizer)


def test_a_gguf_file_and_its_folder(tmp_path):
    fields = small.gguf_fields()
    gguf_file(tmp_path / "model.gguf", fields)
    tok = load.load_tokenizer(tmp_path / "model.gguf")
    assert tok == load.load_tokenizer(tmp_path)
    assert (tok.origin, tok.chat_template) == ("gguf", "{{ 1 }}")
    assert load.read_chat_template(tmp_path / "model.gguf") == "{{ 1 }}"
    assert tok.eos_id == tok.pad_id == tok.special["<|im_end|>"]
    gguf_file(tmp_path / "other.gguf", fields)
    with pytest.raises(ValueError, match=r"one \.gguf file; got 2"):
        load.load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"chat_template.jinja": "a", "tokenizer_config.json": CONFIG}, "a"),
        ({"chat_template.json": {"chat_template": "b"}}, "b"),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [
                        {"name": "rag", "template": "c"},
                        {"name": "default", "template": "d"},
                    ]
                }
            },
            "d",
        ),
        ({"tokenizer_config.json": {}}, None),
        ({}, None),
    ],
)
def test_where_a_chat_template_may_stand(tmp_path, files, found):
    for name, content in files.items():
        write(tmp_path, name, content)
    assert load.read_chat_template(tmp_path) == found


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "{", "JSON object with a model"),
        ("tokenizer.json", "[" * 100_000, "JSON object with a model"),
        (
            "tokenizer.json",
            {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": [[1]]},
            "form of its format",
        ),
        ("tokenizer.model", "junk" * 20, "SentencePiece model"),
        ("model.gguf", "junk" * 20, "sound header"),
        ("model.gguf", b"GGUF\x03\x00\x00\x00" + b"\xff" * 64, "sound header"),
        ("tokenizer_config.json", "[]", "must hold a JSON object"),
        ("tokenizer_config.json", {"eos_token": 3}, "eos_token must be a string or null"),
        ("readme.txt", "hello", "neither of the others"),
        ("chat_template.jinja", b"\xff\xfe", "must be UTF-8"),
    ],
)
def test_bad_folders_are_refused_in_one_line(tmp_path, name, content, message):
    write(tmp_path, name, content)
    with pytest.raises(ValueError, match=message) as error:
        load.load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)


def test_missing_and_oversized_files_are_refused(tmp_path, monkeypatch):
    for name in ("absent", "absent.json", "absent.gguf"):
        with pytest.raises(ValueError, match=r"readable file.*No such file"):
            load.load_tokenizer(tmp_path / name)
    write(tmp_path, "tokenizer.json", small.byte_level())
    monkeypatch.setattr(load, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="must have at most 1000 bytes"):
        load.load_tokenizer(tmp_path)


def test_links_may_lead_into_the_cache_of_blobs_and_nowhere_else(tmp_path):
    cache = tmp_path / "models--x"
    snapshot = cache / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    write(cache / "blobs", "123", small.byte_level())
    (snapshot / "tokenizer.json").symlink_to("../../blobs/123")
    assert load.load_tokenizer(snapshot).origin == "tokenizer.json"
    (snapshot / "chat_template.jinja").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="must lie in its folder"):
        load.load_tokenizer(snapshot)
