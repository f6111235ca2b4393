"""`tokenizer.json` files through the `tokenizers` library: byte-pair vocabularies.

The file is changed in memory in three ways before the library reads it: control tokens are all
marked special, so that `encode_special_tokens` keeps them out of text; merges that would spell one
are dropped; and the rule that puts a space before a text is taken out and applied here, where the
caller can say what stands before the text.
"""

import collections.abc
import functools
import itertools
import json
import re
import typing

from alignjax.core import untrusted
from alignjax.text.tokenizers import interface, opened

Spec = dict[str, typing.Any]


def from_json(
    source: bytes,
    *,
    names: collections.abc.Mapping[str, str | None] | None = None,
    chat_template: str | None = None,
    add_bos: bool | None = None,
    where: str = "tokenizer.json",
) -> opened.OpenedTokenizer:
    """Returns the tokenizer of the bytes of a `tokenizer.json`.

    Args:
      names: "pad", "bos", "eos" -> token, from the folder's configuration; absent is None.
      add_bos: whether a document begins with BOS; None: as the file's post-processor says.
    Raises: ValueError for bytes that are no such file, a model other than byte pairs, or a name
      without an id.
    """
    try:
        spec = untrusted.parse_json(source, where)
        reason = "another value"
    except untrusted.Refused as error:
        spec, reason = None, str(error).rstrip(".")
    if not isinstance(spec, dict) or not isinstance(spec.get("model"), dict):
        raise ValueError(
            f"tokenizer.json must be a JSON object with a model; got {reason} ({where}). Copy the "
            "file again."
        )
    names = dict(names or {})
    stated = {kind: name for kind, name in sorted(names.items()) if name is not None}
    hashed = opened.fingerprint(source, json.dumps(stated)) if stated else None
    return from_spec(
        spec,
        names=names,
        chat_template=chat_template,
        add_bos=add_bos,
        fingerprint=hashed or opened.fingerprint(source),
        origin="tokenizer.json",
        where=where,
    )


def from_spec(
    spec: Spec,
    *,
    names: collections.abc.Mapping[str, str | None],
    chat_template: str | None,
    add_bos: bool | None,
    fingerprint: str,
    origin: str,
    where: str,
) -> opened.OpenedTokenizer:
    """Returns the tokenizer of a parsed `tokenizer.json`; `spec` is changed."""
    _check_model(spec, where)
    bos = names.get("bos")
    if add_bos is None:
        add_bos = bos is not None and _first_token(spec.get("post_processor")) == bos
    spec |= {"truncation": None, "padding": None, "post_processor": None}
    chosen = {name for name in names.values() if name is not None}
    ids = dict(spec["model"]["vocab"])
    added = spec.get("added_tokens") or []
    for token in added:
        ids[token["content"]] = token["id"]
        token["special"] = (
            token["special"]
            or token["content"] in chosen
            or interface.is_control_name(token["content"])
        )
    special = {token["content"]: token["id"] for token in added if token["special"]}
    special |= {name: ids[name] for name in ids if interface.is_control_name(name)}
    special |= {name: ids[name] for name in chosen if name in ids}
    missing = sorted(chosen - special.keys())
    if missing:
        raise ValueError(
            f"special tokens must be in the vocabulary; got {missing[0]!r} ({where}). "
            "Correct the tokenizer's configuration."
        )
    hidden = {token["content"] for token in added if token["special"]}
    spaced_after = _take_out_spaces(spec, where)
    _drop_merges_into(spec["model"], special)
    is_bytes = _is_byte_level(spec, where)
    size = max(ids.values()) + 1
    return opened.OpenedTokenizer(
        fingerprint=fingerprint,
        vocab_size=size,
        pad_id=_id(ids, names.get("pad")),
        bos_id=_id(ids, names.get("bos")),
        eos_id=_id(ids, names.get("eos")),
        special=special,
        lossless=_is_lossless(spec, is_bytes),
        origin=origin,
        chat_template=chat_template,
        starts_with_bos=add_bos and bos is not None,
        _encode=_encoder(_library(spec, where), special),
        _table=_table(size, ids, added, hidden, is_bytes),
        _spaced_after=spaced_after,
        _space_mark_ids=() if is_bytes else opened.space_mark_ids(ids),
    )


def _first_token(processor: typing.Any) -> str | None:
    """The control token that a file puts before a text; None where there is none."""
    if not isinstance(processor, dict):
        return None
    if processor.get("type") == "Sequence":
        firsts = [_first_token(step) for step in processor.get("processors") or []]
        return next((first for first in firsts if first is not None), None)
    if processor.get("type") != "TemplateProcessing":
        return None
    first = next(iter(processor.get("single") or []), None)
    token = first.get("SpecialToken") if isinstance(first, dict) else None
    return token.get("id") if isinstance(token, dict) else None


def _library(spec: Spec, where: str):
    import tokenizers

    try:
        library = tokenizers.Tokenizer.from_str(json.dumps(spec))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(
            f"tokenizer.json must load in tokenizers {tokenizers.__version__}; got "
            f"{' '.join(str(error).split())[:160]!r} ({where}). Copy the file again."
        ) from None
    library.encode_special_tokens = True  # text that spells a special token stays text
    return library


def _encoder(library, special: collections.abc.Mapping[str, int]):
    """Returns encode(texts, whether a space goes before each); no id of `special` comes out."""
    control = frozenset(special.values())
    longest_first = sorted((name for name in special if len(name) > 1), key=len, reverse=True)
    spelled = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def raw(texts: list[str]) -> list[list[int]]:
        found = library.encode_batch_fast(texts, add_special_tokens=False)  # without offsets
        return [encoding.ids for encoding in found]

    def broken(text: str) -> list[int]:
        # a vocabulary that finds whole words without merging can still hit a control token
        cuts = [0, *(match.start() + 1 for match in spelled.finditer(text)), len(text)]
        parts = raw([text[start:stop] for start, stop in itertools.pairwise(cuts)])
        return [token for part in parts for token in part]

    def encode(texts: list[str], space: bool) -> list[list[int]]:
        texts = [" " + text if space and text else text for text in texts]
        return [
            ids if control.isdisjoint(ids) else broken(text)
            for text, ids in zip(texts, raw(texts), strict=True)
        ]

    return encode


def _check_model(spec: Spec, where: str) -> None:
    model = spec["model"]
    kind = model.get("type", "BPE" if "merges" in model else "unknown")
    if kind != "BPE" or not isinstance(model.get("vocab"), dict) or not model["vocab"]:
        raise ValueError(
            f"tokenizer.json must hold a BPE model with a vocabulary; got {kind} ({where}). "
            "Use a decoder-only language model's folder."
        )
    wrong = [t for t in model["vocab"].values() if type(t) is not int or not 0 <= t < 2**31]
    added = spec.get("added_tokens") or []
    fields = {"id": int, "content": str, "special": bool}
    wrong += [
        t for t in added if any(type(t.get(name)) is not kind for name, kind in fields.items())
    ]
    wrong += [t["id"] for t in added if t not in wrong and not 0 <= t["id"] < 2**31]
    if wrong:
        raise ValueError(
            f"tokenizer.json must map tokens to ids below 2**31; got {str(wrong[0])[:60]!r} "
            f"({where}). Copy the file again."
        )
    highest = max([*model["vocab"].values(), *(token["id"] for token in added)])
    if highest >= 4 * (len(model["vocab"]) + len(added)) + 1024:
        raise ValueError(
            f"tokenizer.json must number its tokens densely; got id {highest} for "
            f"{len(model['vocab']) + len(added)} tokens ({where}). Copy the file again."
        )


def _take_out_spaces(spec: Spec, where: str) -> frozenset[str]:
    """Removes the rule that puts a space before a text; returns the places where it held."""
    after: set[str] = set()
    both = {interface.NOTHING, interface.SPECIAL}
    steps = _steps(spec.get("normalizer"), "normalizers")
    if any(step["type"] == "Prepend" for step in steps):
        after |= both
        kept = [step for step in steps if step["type"] != "Prepend"]
        spec["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
    for step in _steps(spec.get("pre_tokenizer"), "pretokenizers"):
        if step["type"] == "Metaspace":
            scheme = step.get("prepend_scheme", "always")
            if step.get("add_prefix_space") is False:
                scheme = "never"
            after |= {"always": both, "first": {interface.NOTHING}}.get(scheme, set())
            step["prepend_scheme"] = "never"
            step.pop("add_prefix_space", None)
        elif step["type"] == "ByteLevel" and step.get("add_prefix_space"):
            raise ValueError(
                "tokenizer.json must not use ByteLevel with add_prefix_space, which loses a "
                f"leading space; got it ({where}). Use another model."
            )
    return frozenset(after)


def _drop_merges_into(model: Spec, special: collections.abc.Mapping[str, int]) -> None:
    def joined(merge) -> str:
        return merge.replace(" ", "") if isinstance(merge, str) else "".join(merge)

    model["merges"] = [merge for merge in model["merges"] if joined(merge) not in special]


def _is_byte_level(spec: Spec, where: str) -> bool:
    kinds = {step["type"] for step in _steps(spec.get("decoder"), "decoders")}
    if "ByteLevel" in kinds:
        return True
    if kinds & {"Metaspace", "ByteFallback", "Replace"}:
        return False
    raise ValueError(
        f"tokenizer.json must decode by ByteLevel or by Metaspace; got "
        f"{', '.join(sorted(kinds)) or 'no decoder'} ({where}). Use another model."
    )


def _is_lossless(spec: Spec, is_bytes: bool) -> bool:
    if is_bytes:
        return not _steps(spec.get("normalizer"), "normalizers")
    model = spec["model"]
    steps = _steps(spec.get("normalizer"), "normalizers")
    spaces_only = all(
        step["type"] == "Replace" and step.get("pattern") == {"String": " "} for step in steps
    )
    return spaces_only and bool(model.get("byte_fallback")) and "<0x00>" in model["vocab"]


def _steps(part: Spec | None, inner: str) -> list[Spec]:
    """Returns the steps of a normalizer, pre-tokenizer or decoder, sequences opened."""
    if part is None:
        return []
    if part["type"] == "Sequence":
        return [step for one in part[inner] for step in _steps(one, inner)]
    return [part]


def _table(size, ids, added, hidden, is_bytes: bool) -> tuple[bytes, ...]:
    table = [b""] * size
    contents = {token["content"] for token in added}
    spelled = byte_level_bytes if is_bytes else opened.sentencepiece_bytes
    for piece, token in ids.items():
        if piece in hidden:
            continue
        table[token] = piece.encode("utf-8") if piece in contents else spelled(piece)
    return tuple(table)


def byte_level_bytes(piece: str) -> bytes:
    """Returns the bytes of a GPT-2 piece, in which every byte is written as one character."""
    values = _byte_values()
    if all(character in values for character in piece):
        return bytes(values[character] for character in piece)
    return piece.encode("utf-8")


@functools.cache
def _byte_values() -> dict[str, int]:
    """The GPT-2 alphabet: printable Latin-1 stands for itself, the rest for 256, 257, ..."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    values = {chr(byte): byte for byte in printable}
    return values | {chr(256 + index): byte for index, byte in enumerate(others)}


def _id(ids, name: str | None) -> int | None:
    return None if name is None else ids[name]
