"""Every kind of foreign tokenizer: lossless, free of control tokens, one interface."""

import json
import random

import pytest

from alignjax.text import tokenizer as own
from alignjax.text.tokenizers import (
    gguf_file,
    interface,
    load,
    opened,
    sentencepiece_file,
    tokenizer_json,
)
from tests.text import small_tokenizers as small
from tests.text.test_tokenizer import NASTY

CHATML = {"bos": None, "eos": "<|im_end|>", "pad": "<|endoftext|>"}
MARKUP = "<|im_start|><|im_end|><|endoftext|><s></s><unk><think></think>[INST]<start_of_turn>"


def gguf_llama(model: bytes, add_space: bool = True) -> opened.OpenedTokenizer:
    rows = small.pieces_of(model)
    return gguf_file.from_fields(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": [piece for piece, _, _ in rows],
            "tokenizer.ggml.scores": [score for _, score, _ in rows],
            "tokenizer.ggml.token_type": [kind for _, _, kind in rows],
            "tokenizer.ggml.add_space_prefix": add_space,
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
        }
    )


MAKERS = {
    "bytes": lambda: tokenizer_json.from_json(small.byte_level(), names=CHATML),
    "ordinary": lambda: tokenizer_json.from_json(
        small.byte_level(("<|im_end|>",), ("<think>", "</think>", "<table>", "\n\n"))
    ),
    "sentencepiece": lambda: sentencepiece_file.from_model(small.sentencepiece_model()),
    "gemma": lambda: sentencepiece_file.from_model(
        small.sentencepiece_model(("<start_of_turn>", "<end_of_turn>", "\n\n"), True)
    ),
    "json": lambda: tokenizer_json.from_json(small.json_of(small.sentencepiece_model())),
    "metaspace": lambda: tokenizer_json.from_json(
        small.json_of(small.sentencepiece_model(), normalizer=False, scheme="first")
    ),
    "gguf": lambda: gguf_file.from_fields(small.gguf_fields()),
    "gguf-llama": lambda: gguf_llama(small.sentencepiece_model()),
}


@pytest.fixture(scope="module", params=sorted(MAKERS))
def opened_tok(request):
    return MAKERS[request.param]()


@pytest.mark.parametrize("text", [*NASTY, MARKUP])
def test_round_trip_is_lossless_and_free_of_control_tokens(opened_tok, text):
    ids = opened_tok.encode(text)
    assert opened_tok.lossless
    assert opened_tok.decode(ids) == text
    assert not set(opened_tok.special.values()) & set(ids)


def test_random_text_round_trips(opened_tok):
    rng = random.Random(0)
    for _ in range(100):
        codes = [rng.choice((rng.randrange(0x80), rng.randrange(0xD800))) for _ in range(30)]
        text = "".join(map(chr, codes))
        assert opened_tok.decode(opened_tok.encode(text)) == text


def test_batch_equals_single_and_a_text_in_pieces_reads_the_same(opened_tok):
    assert opened_tok.encode_many(NASTY) == [opened_tok.encode(text) for text in NASTY]
    for text in NASTY:
        head = opened_tok.encode(text[:3])
        tail = opened_tok.encode(text[3:], after=interface.TEXT)
        assert opened_tok.decode(head + tail) == text


def test_bad_input_is_refused(opened_tok):
    with pytest.raises(ValueError, match="lone surrogate at character 2"):
        opened_tok.encode("ab\udc00")
    with pytest.raises(ValueError, match="must be a str"):
        opened_tok.encode(b"ab")
    with pytest.raises(ValueError, match="after must be one of nothing, special, text"):
        opened_tok.encode("ab", after="bos")
    for token in (-1, opened_tok.vocab_size):
        with pytest.raises(ValueError, match="token id must lie in"):
            opened_tok.decode([token])


def test_special_tokens_decode_to_nothing():
    tok = MAKERS["bytes"]()
    assert sorted(tok.special) == ["<|endoftext|>", "<|im_end|>", "<|im_start|>"]
    assert tok.decode(tok.special.values()) == ""
    assert (tok.bos_id, tok.eos_id) == (None, tok.special["<|im_end|>"])


def test_names_that_files_do_not_mark_special_are_control_tokens_all_the_same():
    tok = MAKERS["ordinary"]()
    assert {"<think>", "</think>", "<|im_end|>"} <= tok.special.keys()
    table = tok.encode("<table>\n\n")
    assert len(table) == 2  # these stay ordinary tokens of text
    gemma = MAKERS["gemma"]()
    assert {"<start_of_turn>", "<end_of_turn>"} <= gemma.special.keys()
    assert "\n\n" not in gemma.special


def test_a_merge_that_spells_a_control_token_is_dropped():
    spec = json.loads(small.byte_level(("<s>",)))
    vocab = spec["model"]["vocab"]
    vocab["s>"] = len(vocab) + 10
    spec["added_tokens"][0]["id"] = vocab["<s>"] = len(vocab) + 10
    spec["model"]["merges"] += [["s", ">"], ["<", "s>"]]
    spec["pre_tokenizer"]["use_regex"] = False
    tok = tokenizer_json.from_json(json.dumps(spec).encode())
    assert tok.encode("<s>") == [vocab["<"], vocab["s>"]]


def test_a_whole_word_that_is_a_control_token_is_broken_up():
    spec = json.loads(small.byte_level(("[INST]",)))
    vocab = spec["model"]["vocab"]
    vocab["[INST]"] = spec["added_tokens"][0]["id"]
    spec["model"]["ignore_merges"] = True
    spec["pre_tokenizer"]["use_regex"] = False
    tok = tokenizer_json.from_json(json.dumps(spec).encode())
    assert tok.special["[INST]"] not in tok.encode("[INST]")
    assert tok.decode(tok.encode("[INST]")) == "[INST]"


def test_the_four_readings_of_one_model_agree():
    model = small.sentencepiece_model()
    direct, prepend, meta, gguf = (
        MAKERS[name]() for name in ("sentencepiece", "json", "metaspace", "gguf-llama")
    )
    for text in NASTY:
        for after in (interface.NOTHING, interface.TEXT):
            ids = direct.encode(text, after)
            assert prepend.encode(text, after) == meta.encode(text, after) == ids
            assert gguf.encode(text, after) == ids
        ids = direct.encode(text, interface.SPECIAL)
        assert prepend.encode(text, interface.SPECIAL) == gguf.encode(text, "special") == ids
    # the later layout of Llama's tokenizer.json puts a space at the start of a document only
    assert meta.encode("a", "special") == direct.encode("a", "text") != direct.encode("a")
    bare = gguf_llama(model, add_space=False)
    assert bare.encode("mill") == direct.encode("mill", "text")


def test_the_space_before_a_text_is_sentencepieces_own():
    import sentencepiece

    model = small.sentencepiece_model()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    tok = MAKERS["sentencepiece"]()
    for text in NASTY:
        if "\u2581" not in text:
            assert tok.encode(text) == processor.encode(text)
    marked = processor.encode("a\u2581b")
    assert processor.decode(marked) == "a b"  # theirs loses U+2581, ours writes its bytes
    assert tok.decode(tok.encode("a\u2581b")) == "a\u2581b"


def test_pad_is_stated_and_never_guessed():
    tok = MAKERS["sentencepiece"]()
    assert (tok.pad_id, tok.bos_id, tok.eos_id) == (None, 1, 2)
    with pytest.raises(ValueError, match="must have a pad; got none"):
        load.require_pad(tok)
    assert load.require_pad(tok.with_pad("</s>")) == 2
    with pytest.raises(ValueError, match="pad must be one of the 3 control tokens"):
        tok.with_pad("mill")
    assert MAKERS["gemma"]().pad_id == 3


def test_lossy_models_say_so():
    spec = json.loads(small.byte_level())
    spec["normalizer"] = {"type": "NFC"}
    tok = tokenizer_json.from_json(json.dumps(spec).encode())
    assert not tok.lossless
    assert tok.decode(tok.encode("e\u0301")) == "\u00e9"


def test_our_own_tokenizer_meets_the_interface(tok):
    assert tok.special[own.EOS] == tok.eos_id
    assert set(tok.control.items()) < set(tok.special.items())
    assert tok.encode("a b", after="text") == tok.encode("a b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda spec: spec["model"].update(type="Unigram"), "must hold a BPE model"),
        (lambda spec: spec["model"].update(vocab={}), "must hold a BPE model"),
        (lambda spec: spec.update(decoder=None), "got no decoder"),
        (lambda spec: spec["pre_tokenizer"].update(add_prefix_space=True), "add_prefix_space"),
        (lambda spec: spec["added_tokens"][0].update(id=10**9), "number its tokens densely"),
        (lambda spec: spec["added_tokens"][0].update(id=-1), "ids below"),
        (lambda spec: spec["model"].update(merges=[["zz", "yy"]]), "must load in tokenizers"),
        (lambda spec: spec.pop("model"), "JSON object with a model"),
    ],
)
def test_bad_tokenizer_json_is_refused_in_one_line(change, message):
    spec = json.loads(small.byte_level())
    change(spec)
    with pytest.raises(ValueError, match=message) as error:
        tokenizer_json.from_json(json.dumps(spec).encode())
    assert "\n" not in str(error.value)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="special tokens must be in the vocabulary; got '<eos>'"):
        tokenizer_json.from_json(small.byte_level(), names={"eos": "<eos>"})
    with pytest.raises(ValueError, match="must be pieces of the vocabulary; got '<pad>'"):
        sentencepiece_file.from_model(small.sentencepiece_model(), names={"pad": "<pad>"})
    with pytest.raises(ValueError, match="do not parse"):
        sentencepiece_file.from_model(b"junk" * 50)
    with pytest.raises(ValueError, match="got id 16777215"):
        sentencepiece_file.from_model(small.sentencepiece_model(), added={2**24 - 1: "<pad>"})


def test_fingerprints_follow_the_bytes_and_the_names():
    model = small.sentencepiece_model()
    plain = sentencepiece_file.from_model(model)
    assert plain.fingerprint == opened.fingerprint(model)
    renamed = sentencepiece_file.from_model(model, names={"eos": None})
    assert renamed.eos_id is None
    assert renamed != plain
    added = sentencepiece_file.from_model(model, added={420: "<pad>"}, names={"pad": "<pad>"})
    assert (added.pad_id, added.vocab_size, added.decode([420])) == (420, 421, "")
    assert len({plain.fingerprint, renamed.fingerprint, added.fingerprint}) == 3


# --- whether a document begins with BOS -------------------------------------------------------

BYTES, BEGIN = {"type": "ByteLevel"}, {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
TEXT = {"Sequence": {"id": "A", "type_id": 0}}
TEMPLATE = {"type": "TemplateProcessing", "single": [BEGIN, TEXT]}
NAMED = {"bos": "<|endoftext|>", "eos": "<|im_end|>", "pad": "<|im_end|>"}


def starts(processor, names=NAMED, **options):
    spec = json.loads(small.byte_level()) | {"post_processor": processor}
    source = json.dumps(spec).encode()
    return tokenizer_json.from_json(source, names=names, **options)


@pytest.mark.parametrize(
    ("processor", "bos"),
    [
        (None, False),
        (BYTES, False),
        (TEMPLATE, True),
        ({"type": "Sequence", "processors": [BYTES, TEMPLATE]}, True),
        ({"type": "TemplateProcessing", "single": [TEXT, BEGIN]}, False),  # that of an end
        ({"type": "TemplateProcessing", "single": []}, False),
    ],
)
def test_a_document_begins_as_the_file_says(processor, bos):
    found = starts(processor)
    assert found.starts_with_bos == bos
    ids = interface.document_start(found, "a text")
    assert ids == [found.bos_id] * bos + found.encode("a text")
    for stated in (True, False):  # by the folder's configuration, or by the caller
        assert starts(processor, add_bos=stated).starts_with_bos == stated
        own = interface.document_start(found, "a text", stated)
        assert own == [found.bos_id] * stated + found.encode("a text")
    assert not starts(processor, CHATML, add_bos=True).starts_with_bos  # there is none


def test_sentencepiece_documents_begin_with_bos_unless_the_folder_says_no(tmp_path):
    model = small.sentencepiece_model()
    assert sentencepiece_file.from_model(model).starts_with_bos
    assert gguf_llama(model).starts_with_bos
    assert not gguf_file.from_fields(small.gguf_fields()).starts_with_bos
    (tmp_path / "tokenizer.model").write_bytes(model)
    for stated in (True, False):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": stated}))
        assert load.load_tokenizer(tmp_path).starts_with_bos == stated
