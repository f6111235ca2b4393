import hashlib
import random

import pytest

from alignjax.text import tokenizer

NASTY = (
    "two  spaces   three",
    " leads",
    "trails ",
    "   ",
    "\ttab\tand\t\ttabs",
    "line\nline\n\n\nline\n",
    "\r\nWindows\r\nlines\r",
    "nul\x00inside\x00",
    "bell\x07 escape\x1b[31m delete\x7f",
    "no-break\u00a0space, thin\u2009space, wide\u3000space",
    "zero\u200bwidth\u200djoiner\u2060",
    "\ufeffbyte order mark",
    "e\u0301 against \u00e9; \u1e9b\u0323",
    "ligature \ufb01, full width \uff21\uff22\uff23, superscript x\u00b2",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1eb\U0001f1f7 \U0001f44d\U0001f3fd",
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "\u4f60\u597d\uff0c\u4e16\u754c \u3053\u3093\u306b\u3061\u306f",
    "\u2581meta\u2581 \u2581\u2581space",
    "<s></s><unk><pad><bos><0x41>",
    "<|human|>hi<|assistant|><|eos|><|im_start|>",
    "\ufffd\ufffe\uffff\U0010ffff",
    "",
    "1234567890 -1.5e-10",
    "a" * 5000,
)


@pytest.mark.parametrize("text", NASTY)
def test_round_trip_is_lossless_and_free_of_special_ids(tok, text):
    ids = tok.encode(text)
    assert tok.decode(ids) == text
    specials = {tok.pad_id, tok.bos_id, tok.eos_id, *tok.control.values()}
    assert not specials & set(ids)
    assert tokenizer.UNKNOWN not in tok.decode(ids) or tokenizer.UNKNOWN in text


def test_random_text_round_trips(tok):
    rng = random.Random(0)
    for _ in range(300):
        codes = [rng.choice((rng.randrange(0x80), rng.randrange(0xD800))) for _ in range(30)]
        text = "".join(map(chr, codes))
        assert tok.decode(tok.encode(text)) == text


def test_batch_encoding_equals_single_encoding(tok):
    assert tok.encode_many(NASTY) == [tok.encode(text) for text in NASTY]


def test_known_text_uses_fewer_tokens_than_bytes(tok):
    text = "The river runs past the old mill"
    assert len(tok.encode(text)) < len(text) // 2


def test_special_ids_are_distinct_and_decode_to_nothing(tok):
    ids = [tok.pad_id, tok.bos_id, tok.eos_id, *tok.control.values()]
    assert len(set(ids)) == 6
    assert tok.decode(ids) == ""
    assert tok.vocab_size == 400


def test_markers_as_text_are_text(tok):
    ids = tok.encode("<|human|>")
    assert tok.control["<|human|>"] not in ids
    assert len(ids) > 1


def test_training_is_deterministic_and_fingerprinted():
    texts = ["one two three four five six seven"] * 3
    first, second = (tokenizer.train_tokenizer(iter(texts), 300) for _ in range(2))
    assert first.model == second.model
    assert first == second
    assert first.fingerprint == hashlib.sha256(first.model).hexdigest()
    assert first != tokenizer.train_tokenizer([*texts, "eight nine ten"], 300)


def test_long_lines_are_split_not_dropped():
    only_long = "zebra crossing " * 2000  # 30,000 bytes in one line
    tok = tokenizer.train_tokenizer([only_long], 280)
    assert len(tok.encode("zebra")) < 4
    words = list(tokenizer._training_lines("\u00e9\u4f60" * 5000))
    assert "".join(words) == "\u00e9\u4f60" * 5000
    assert max(len(word.encode()) for word in words) <= tokenizer.MAX_LINE_BYTES


def test_save_and_load(tok, tmp_path):
    path = tmp_path / "tokenizer.model"
    tok.save(path)
    loaded = tokenizer.load_tokenizer(path)
    assert loaded == tok
    assert loaded.encode("a garden") == tok.encode("a garden")
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.model"]


@pytest.mark.parametrize(
    ("texts", "size", "message"),
    [
        ([], 300, "at least one character"),
        (["", "\n"], 300, "at least one character"),
        (["abc abc"], 5000, "vocab_size must be at most"),
        (["abc"], 100, "vocab_size must exceed"),
        (["\ud800"], 300, "lone surrogate"),
        ([b"abc"], 300, "must be a str"),
    ],
)
def test_bad_training_input_is_refused_in_words(texts, size, message):
    with pytest.raises(ValueError, match=message) as error:
        tokenizer.train_tokenizer(texts, size)
    assert "INTERNAL" not in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_models_are_refused_in_words(tok, tmp_path):
    for damaged in (b"", b"junk" * 50, tok.model[: len(tok.model) // 2], tok.model[:-1]):
        with pytest.raises(ValueError, match="tokenizer model must"):
            tokenizer.from_bytes(damaged)
    with pytest.raises(ValueError, match="readable file"):
        tokenizer.load_tokenizer(tmp_path / "absent")
    with pytest.raises(ValueError, match="readable file"):
        tokenizer.load_tokenizer(tmp_path)


def test_foreign_model_without_markers_is_refused():
    import io

    import sentencepiece

    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["hello world"]), model_writer=writer, vocab_size=11, minloglevel=3
    )
    with pytest.raises(ValueError, match="control symbols"):
        tokenizer.from_bytes(writer.getvalue())


def test_bad_text_and_ids_are_refused(tok):
    with pytest.raises(ValueError, match="lone surrogate at character 2"):
        tok.encode("ab\udc00")
    with pytest.raises(ValueError, match="token id"):
        tok.decode([tok.vocab_size])
    with pytest.raises(ValueError, match="token id"):
        tok.decode([-1])
    assert tok.decode(tok.encode("\u00e9")[:1]) == "\ufffd"
