"""Vocabularies inside GGUF files: byte pairs (`gpt2`) and SentencePiece scores (`llama`).

Ids equal llama.cpp's with parse_special off. The pre-tokenizer is known by name only; its regular
expressions stand here. For `smollm` llama.cpp cuts out every digit first and applies GPT-2's
pattern to the rest. Two differences are on purpose: U+2581 in a text of a `llama` vocabulary is
written in bytes, not read as a space; and no space follows a user-defined piece inside a text,
as in SentencePiece itself.
"""

import collections.abc
import os
import typing

import numpy as np

from alignjax.core import gguf_header, untrusted
from alignjax.text.tokenizers import opened, sentencepiece_file, tokenizer_json

_CONTRACTIONS = r"'s|'t|'re|'ve|'m|'ll|'d"
_GPT2 = _CONTRACTIONS + r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_DIGIT = r"\p{N}"
_LINES_AND_SPACES = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_LINES_AND_SPACES}"
_QWEN2 = rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_LINES_AND_SPACES}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SLASHES = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    rf"|\p{{N}}|{_SLASHES}"
)
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+(?i:{_CONTRACTIONS})?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*(?i:{_CONTRACTIONS})?|\p{{N}}{{1,3}}|{_SLASHES}"
)
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
# tokenizer.ggml.pre -> patterns, applied one after another to what the last one left
PRE_TOKENIZERS = {
    "gpt-2": (_GPT2,),
    "smollm": (_DIGIT, _GPT2),
    "starcoder": (_DIGIT, _GPT2),
    "llama-bpe": (_LLAMA3,),
    "llama3": (_LLAMA3,),
    "llama-v3": (_LLAMA3,),
    "llama4": (_GPT4O,),
    "gpt-4o": (_GPT4O,),
    "qwen2": (_QWEN2,),
    "tekken": (_TEKKEN,),
    "deepseek-v3": _DEEPSEEK_V3,
}
_WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3", "tekken")  # a word in the vocabulary is not cut
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = range(1, 7)
_MODELS = ("gpt2", "llama")

Fields = dict[str, typing.Any]


def from_file(path: str | os.PathLike) -> opened.OpenedTokenizer:
    """Returns the tokenizer of a GGUF file; its tensors are not read.

    Raises: ValueError for a file that is no GGUF, has no vocabulary, or one of an unknown kind.
    """
    return from_fields(read_fields(path), where=str(path))


def read_fields(path: str | os.PathLike) -> Fields:
    """Returns the `tokenizer.*` metadata of a GGUF file as plain values."""
    try:
        with untrusted.opened(path) as file:
            _, metadata = gguf_header.begin(gguf_header.Cursor(file, path))
    except OSError as error:
        raise ValueError(
            f"GGUF model must be a readable file; got {error.strerror} ({path}). Give its path."
        ) from None
    except untrusted.Refused as error:
        raise ValueError(
            f"GGUF model must have a sound header; {error} Copy the file again."
        ) from None
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in metadata.items()
        if name.startswith("tokenizer.")
    }


def from_fields(fields: Fields, *, where: str = "GGUF") -> opened.OpenedTokenizer:
    """Returns the tokenizer of the `tokenizer.*` metadata, as `read_fields` gives it."""
    model = fields.get("tokenizer.ggml.model")
    if model not in _MODELS:
        raise ValueError(
            f"tokenizer.ggml.model must be one of {', '.join(_MODELS)}; got {model!r} ({where}). "
            "Convert the model to safetensors with a tokenizer.json."
        )
    pieces = fields.get("tokenizer.ggml.tokens") or []
    kinds = fields.get("tokenizer.ggml.token_type") or [_NORMAL] * len(pieces)
    if not pieces or len(kinds) != len(pieces) or len(set(pieces)) != len(pieces):
        raise ValueError(
            f"tokenizer.ggml.tokens must list each token once with its type; got {len(pieces)} "
            f"tokens, {len(set(pieces))} different, and {len(kinds)} types ({where}). Convert the "
            "model again."
        )
    names = _names(fields, pieces, where)
    template = fields.get("tokenizer.chat_template")
    add_bos = bool(fields.get("tokenizer.ggml.add_bos_token", model != "gpt2"))
    hashed = opened.fingerprint(repr(sorted(fields.items(), key=lambda item: item[0])))
    if model == "gpt2":
        return tokenizer_json.from_spec(
            _spec(fields, pieces, kinds, where),
            names=names,
            chat_template=template,
            add_bos=add_bos,
            fingerprint=hashed,
            origin="gguf",
            where=where,
        )
    scores = fields.get("tokenizer.ggml.scores") or []
    if len(scores) != len(pieces):
        raise ValueError(
            f"tokenizer.ggml.scores must give a score to each of {len(pieces)} tokens; got "
            f"{len(scores)} ({where}). Convert the model again."
        )
    return sentencepiece_file.from_pieces(
        list(zip(pieces, scores, kinds, strict=True)),
        names=names,
        add_space=fields.get("tokenizer.ggml.add_space_prefix", True),
        squeeze_spaces=fields.get("tokenizer.ggml.remove_extra_whitespaces", False),
        fingerprint=hashed,
        chat_template=template,
        add_bos=add_bos,
        where=where,
    )


def _spec(fields: Fields, pieces, kinds, where: str) -> tokenizer_json.Spec:
    """Returns the `tokenizer.json` that says the same as the metadata of a byte-pair model."""
    pre = fields.get("tokenizer.ggml.pre")
    if pre not in PRE_TOKENIZERS:
        raise ValueError(
            f"tokenizer.ggml.pre must be one of {', '.join(PRE_TOKENIZERS)}; got {pre!r} "
            f"({where}). Use the model's tokenizer.json."
        )
    merges = fields.get("tokenizer.ggml.merges") or []
    bytes_to_text = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    cuts = [
        {"type": "Split", "pattern": {"Regex": one}, "behavior": "Isolated", "invert": False}
        for one in PRE_TOKENIZERS[pre]
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(pieces, kinds),
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [*cuts, {**bytes_to_text, "use_regex": False}],
        },
        "post_processor": None,
        "decoder": {**bytes_to_text, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {piece: token for token, piece in enumerate(pieces)},
            "merges": [_merge(merge, where) for merge in merges],
            "ignore_merges": pre in _WHOLE_WORDS,
        },
    }


def _added(pieces, kinds) -> list[dict]:
    options = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": token, "content": piece, "special": kind != _USER, **options}
        for token, (piece, kind) in enumerate(zip(pieces, kinds, strict=True))
        if kind in (_CONTROL, _UNKNOWN, _USER)
    ]


def _merge(merge: str, where: str) -> list[str]:
    parts = merge.split(" ")
    if len(parts) != 2 or not all(parts):
        raise ValueError(
            f"a merge must be two pieces with a space between; got {merge[:40]!r} ({where}). "
            "Convert the model again."
        )
    return parts


def _names(
    fields: Fields, pieces: collections.abc.Sequence[str], where: str
) -> dict[str, str | None]:
    names: dict[str, str | None] = {}
    for kind, key in (("pad", "padding"), ("bos", "bos"), ("eos", "eos")):
        token = fields.get(f"tokenizer.ggml.{key}_token_id")
        if token is not None and not 0 <= token < len(pieces):
            raise ValueError(
                f"tokenizer.ggml.{key}_token_id must lie in 0..{len(pieces) - 1}; got {token} "
                f"({where}). Convert the model again."
            )
        names[kind] = None if token is None else pieces[token]
    return names
