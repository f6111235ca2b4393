"""SentencePiece models that others trained: Llama 2, Mistral, Gemma, and GGUF files of that kind.

They bring their own special ids, may lack a pad, and mostly put a space before a text. Their
control pieces may be typed as user-defined symbols, which SentencePiece finds inside text; those
are retyped as control pieces before the model is loaded.
"""

import collections.abc
import json
import typing

from alignjax.text.tokenizers import interface, opened

_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = range(1, 7)  # of SentencePiece and of GGUF
_MOST_ADDED = 65536  # control tokens beyond the pieces; a forged id must not size a table


def from_model(
    model: bytes,
    *,
    names: collections.abc.Mapping[str, str | None] | None = None,
    added: collections.abc.Mapping[int, str] | None = None,
    chat_template: str | None = None,
    space_after_special: bool = True,
    add_bos: bool = True,
    where: str = "tokenizer.model",
) -> opened.OpenedTokenizer:
    """Returns the tokenizer of the bytes of a SentencePiece model.

    Args:
      names: "pad", "bos", "eos" -> token, from the folder's configuration; they replace the
        model's own. A name that maps to None removes it.
      added: id -> control token beyond the pieces of the model.
      space_after_special: whether a model that puts a space before a text also puts one before
        a text that follows a control token (transformers' "legacy").
      add_bos: whether a document begins with BOS, where there is one.
    Raises: ValueError for bytes that do not parse, or a name without an id.
    """
    proto = _parse(model, where)
    added = dict(added or {})
    pieces = [piece.piece for piece in proto.pieces]
    ids = {piece: token for token, piece in enumerate(pieces)}
    _check_pieces(pieces, ids, added, where)
    own = _own_names(proto, pieces)
    stated = [dict(names or {}), sorted(added.items()), space_after_special]
    hashed = opened.fingerprint(model)
    if stated != [{}, [], True]:
        hashed = opened.fingerprint(model, json.dumps(stated))
    names = {**own, **(names or {})}
    built = _build(proto, names, added, chat_template, add_bos, hashed, "sentencepiece", where)
    if space_after_special:
        return built
    return built.spaced_at_start_only()


def from_pieces(
    pieces: collections.abc.Sequence[tuple[str, float, int]],
    *,
    names: collections.abc.Mapping[str, str | None],
    add_space: bool,
    squeeze_spaces: bool,
    fingerprint: str,
    chat_template: str | None,
    add_bos: bool,
    where: str,
) -> opened.OpenedTokenizer:
    """Returns the tokenizer of (piece, score, type) rows, as a GGUF file of type llama holds them.

    The pieces are joined by the best score first, as SentencePiece's byte-pair model does.
    """
    protos = _protos()
    proto = protos.ModelProto()
    proto.trainer_spec.model_type = protos.TrainerSpec.BPE
    proto.trainer_spec.vocab_size = len(pieces)
    proto.trainer_spec.byte_fallback = any(kind == _BYTE for _, _, kind in pieces)
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = add_space
    proto.normalizer_spec.remove_extra_whitespaces = squeeze_spaces
    proto.normalizer_spec.escape_whitespaces = True
    for text, score, kind in pieces:
        proto.pieces.add(piece=text, score=score, type=kind)
    unknown = [text for text, _, kind in pieces if kind == _UNKNOWN]
    if len(unknown) != 1:
        raise ValueError(
            f"GGUF vocabulary must hold one unknown token; got {len(unknown)} ({where}). "
            "Convert the model again."
        )
    proto.trainer_spec.unk_piece = unknown[0]
    return _build(proto, names, {}, chat_template, add_bos, fingerprint, "gguf", where)


def _build(proto, names, added, chat_template, add_bos, fingerprint, origin, where):
    pieces = [piece.piece for piece in proto.pieces]
    ids = {piece: token for token, piece in enumerate(pieces)} | {
        name: token for token, name in added.items()
    }
    chosen = {name for name in names.values() if name is not None}
    for piece in proto.pieces:
        may_be = piece.type in (_NORMAL, _USER, _UNUSED)
        if may_be and (interface.is_control_name(piece.piece) or piece.piece in chosen):
            piece.type = _CONTROL
    special = {p.piece: t for t, p in enumerate(proto.pieces) if p.type in (_CONTROL, _UNKNOWN)}
    special |= {name: token for token, name in added.items()}
    missing = sorted(chosen - special.keys())
    if missing:
        raise ValueError(
            f"special tokens must be pieces of the vocabulary; got {missing[0]!r} ({where}). "
            "Correct the tokenizer's configuration."
        )
    normalizer = proto.normalizer_spec
    spaced, plain = _processor(proto, normalizer.add_dummy_prefix), _processor(proto, False)
    size = max([len(pieces) - 1, *added]) + 1
    table = [b""] * size
    for token, piece in enumerate(proto.pieces):
        if piece.type not in (_CONTROL, _UNKNOWN):
            table[token] = opened.sentencepiece_bytes(piece.piece)
    return opened.OpenedTokenizer(
        fingerprint=fingerprint,
        vocab_size=size,
        pad_id=_id(ids, names.get("pad")),
        bos_id=_id(ids, names.get("bos")),
        eos_id=_id(ids, names.get("eos")),
        special=special,
        lossless=(
            normalizer.name in ("identity", "")
            and not normalizer.remove_extra_whitespaces
            and proto.trainer_spec.byte_fallback
        ),
        origin=origin,
        chat_template=chat_template,
        starts_with_bos=add_bos and names.get("bos") is not None,
        _encode=lambda texts, space: (spaced if space else plain).encode(texts, num_threads=1),
        _table=tuple(table),
        _spaced_after=(
            frozenset({interface.NOTHING, interface.SPECIAL})
            if normalizer.add_dummy_prefix
            else frozenset()
        ),
        _space_mark_ids=opened.space_mark_ids(ids),
    )


def _parse(model: bytes, where: str):
    import google.protobuf.message

    proto = _protos().ModelProto()
    try:
        proto.ParseFromString(model)
        parsed = len(proto.pieces) > 0
    except (google.protobuf.message.DecodeError, UnicodeDecodeError):
        parsed = False
    if not parsed:
        raise ValueError(
            f"tokenizer model must be a SentencePiece model; got {len(model)} bytes that do not "
            f"parse ({where}). Copy the file again."
        )
    return proto


def _protos() -> typing.Any:
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2


def _processor(proto, add_space: bool):
    import sentencepiece

    copy = type(proto)()
    copy.CopyFrom(proto)
    copy.normalizer_spec.add_dummy_prefix = add_space
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=copy.SerializeToString())
    except (RuntimeError, OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"tokenizer model must load; got {' '.join(str(error).split())[:120]!r} (_processor). "
            "Copy the file again."
        ) from None


def _own_names(proto, pieces) -> dict[str, str | None]:
    spec = proto.trainer_spec
    special: dict[str, str | None] = {}
    for kind in ("pad", "bos", "eos"):
        token = getattr(spec, f"{kind}_id")
        special[kind] = pieces[token] if 0 <= token < len(pieces) else None
    return special


def _check_pieces(pieces, ids, added, where) -> None:
    if len(ids) != len(pieces):
        raise ValueError(
            f"tokenizer model must hold each piece once; got {len(pieces) - len(ids)} twice "
            f"({where}). Copy the file again."
        )
    far = [token for token in added if token > len(pieces) + _MOST_ADDED]
    if far:
        raise ValueError(
            f"added tokens must follow the {len(pieces)} pieces of the model; got id {far[0]} "
            f"({where}). Take both files from one model."
        )
    wrong = [
        token for token, name in added.items() if token < len(pieces) and pieces[token] != name
    ]
    if wrong:
        raise ValueError(
            f"added token {wrong[0]} must be {pieces[wrong[0]]!r} as in the model; got "
            f"{added[wrong[0]]!r} ({where}). Take both files from one model."
        )


def _id(ids, name: str | None) -> int | None:
    return None if name is None else ids[name]
