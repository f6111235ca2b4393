"""Small vocabularies in the formats of open-weight models, made on the spot for tests."""

import functools
import io
import json

SENTENCES = (
    "The river runs past the old mill and on to the sea.",
    "Bread needs flour, water, salt and a little time.",
    "How do I keep a garden green in a dry summer?",
    "user assistant system model ipython [INST] [/INST] <<SYS>> <</SYS>>",
    "Water early in the morning, and cover the soil with straw.",
)


@functools.cache
def byte_level(
    specials: tuple[str, ...] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    ordinary: tuple[str, ...] = (),
) -> bytes:
    """A byte-level `tokenizer.json`: `specials` are marked special, `ordinary` are not."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=[], show_progress=False
    )
    library.train_from_iterator(SENTENCES * 4, trainer)
    library.add_special_tokens(list(specials))
    library.add_tokens(list(ordinary))
    return library.to_str().encode()


@functools.cache
def sentencepiece_model(user_defined: tuple[str, ...] = (), pad: bool = False) -> bytes:
    """A SentencePiece model as Llama 2 has it: a space before a text, bytes, no pad."""
    import sentencepiece

    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4), model_writer=writer, vocab_size=420,
        model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=True, split_digits=True,
        user_defined_symbols=list(user_defined), num_threads=1, minloglevel=3,
        unk_id=0, bos_id=1, eos_id=2, pad_id=3 if pad else -1,
    )  # fmt: skip
    return writer.getvalue()


def pieces_of(model: bytes) -> list[tuple[str, float, int]]:
    """(piece, score, type) of a SentencePiece model."""
    from sentencepiece import sentencepiece_model_pb2 as protos

    proto = protos.ModelProto()
    proto.ParseFromString(model)
    return [(piece.piece, piece.score, piece.type) for piece in proto.pieces]


def json_of(model: bytes, *, normalizer: bool = True, scheme: str = "always") -> bytes:
    """The `tokenizer.json` of a SentencePiece model, as converters write it for Llama.

    normalizer: the space before a text as a Prepend step, or else as Metaspace with `scheme`.
    """
    rows = pieces_of(model)
    ids = {piece: token for token, (piece, _, _) in enumerate(rows)}
    merges = []
    for piece, _, kind in rows:
        if kind != 1:
            continue
        halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        merges += [list(pair) for pair in halves if pair[0] in ids and pair[1] in ids]
    space = {"String": " "}
    prepend = {"type": "Prepend", "prepend": "\u2581"}
    replace = {"type": "Replace", "pattern": space, "content": "\u2581"}
    meta = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": False}
    spec = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [
            {"id": ids[name], "content": name, "special": True, "single_word": False,
             "lstrip": False, "rstrip": False, "normalized": False}
            for name, (_, _, kind) in zip(ids, rows, strict=True) if kind in (2, 3)
        ],
        "normalizer": {"type": "Sequence", "normalizers": [prepend, replace]}
        if normalizer else None,
        "pre_tokenizer": None if normalizer else meta,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "vocab": ids, "merges": merges, "byte_fallback": True,
                  "fuse_unk": True, "unk_token": "<unk>"},
    }  # fmt: skip
    return json.dumps(spec).encode()


def gguf_fields(pre: str = "smollm") -> dict:
    """`tokenizer.*` metadata of a byte-pair GGUF: the vocabulary of `byte_level`."""
    spec = json.loads(byte_level())
    ids = spec["model"]["vocab"] | {one["content"]: one["id"] for one in spec["added_tokens"]}
    control = {one["content"] for one in spec["added_tokens"]}
    tokens = sorted(ids, key=ids.__getitem__)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in control else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in spec["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": ids["<|im_start|>"],
        "tokenizer.ggml.eos_token_id": ids["<|im_end|>"],
        "tokenizer.ggml.padding_token_id": ids["<|im_end|>"],
    }
