"""A lossless SentencePiece tokenizer whose control tokens no text can produce.

SentencePiece's defaults destroy text (they fold Unicode, squeeze and strip spaces). The options
used here keep every character, and the two remaining holes are closed in code: U+2581, which
SentencePiece uses for the space, is encoded as its three UTF-8 byte tokens, and ids are decoded
from a table of bytes rather than by SentencePiece.
"""

import collections.abc
import dataclasses
import hashlib
import io
import os
import pathlib
import re
import typing

from alignjax.core import untrusted
from alignjax.text.tokenizers import interface

PAD, BOS, EOS, UNKNOWN = "<|pad|>", "<|bos|>", "<|eos|>", "<|unknown|>"
HUMAN, ASSISTANT, SYSTEM = "<|human|>", "<|assistant|>", "<|system|>"
CONTROL = (HUMAN, ASSISTANT, SYSTEM)
MAX_LINE_BYTES = 4192  # sentencepiece trainer_spec.max_sentence_length: it drops longer lines
_SPACE_MARK = "\u2581"
_SPACE_MARK_BYTES = tuple(f"<0x{byte:02X}>" for byte in _SPACE_MARK.encode("utf-8"))


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A SentencePiece model with its ids read out; equal when the model bytes are equal.

    Fields: vocab_size, pad_id, bos_id, eos_id; control: marker -> id for `<|human|>`,
    `<|assistant|>`, `<|system|>`; fingerprint: sha256 of the model bytes in hex.
    """

    fingerprint: str
    model: bytes = dataclasses.field(repr=False, compare=False)
    vocab_size: int = dataclasses.field(compare=False)
    pad_id: int = dataclasses.field(compare=False)
    bos_id: int = dataclasses.field(compare=False)
    eos_id: int = dataclasses.field(compare=False)
    control: collections.abc.Mapping[str, int] = dataclasses.field(compare=False)
    _processor: typing.Any = dataclasses.field(repr=False, compare=False)
    _table: tuple[bytes, ...] = dataclasses.field(repr=False, compare=False)
    _space_mark_ids: tuple[int, ...] = dataclasses.field(repr=False, compare=False)
    _known: collections.abc.Mapping[str, list[int]] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )

    starts_with_space = False  # `decode` takes nothing off
    starts_with_bos = True  # as every layout of ours

    @property
    def ends(self) -> tuple[int, ...]:
        """The ids at which an answer ends."""
        return (self.eos_id,)

    @property
    def special(self) -> dict[str, int]:
        """Name -> id of every control token, pad, BOS and EOS among them."""
        ends = {PAD: self.pad_id, BOS: self.bos_id, EOS: self.eos_id}
        return {**ends, UNKNOWN: self._processor.unk_id(), **self.control}

    def encode(self, text: str, after: str = interface.NOTHING) -> list[int]:
        """Returns the ids of the text alone: no BOS, EOS or control id, whatever the text says.

        What stands before it (`after`, see `interface.PLACES`) changes nothing: no space is added.

        Raises: ValueError for a text that is not valid Unicode (a lone surrogate).
        """
        return list(self.encode_many([text], after)[0])

    def ahead(self, texts: collections.abc.Iterable[str]) -> "Tokenizer":
        """Returns the same tokenizer, which knows the ids of these texts: one call of the C++ code
        for many short texts is cheaper than many calls."""
        distinct = list(dict.fromkeys(texts))
        plain = dataclasses.replace(self, _known={})
        known = dict(zip(distinct, plain.encode_many(distinct), strict=True))
        return dataclasses.replace(self, _known=known)

    def encode_many(
        self, texts: collections.abc.Sequence[str], after: str = interface.NOTHING
    ) -> list[list[int]]:
        """Returns `encode` of each text, in one call of the C++ code; the lists are not to be
        changed."""
        interface.check_place(after)
        if self._known:
            found = [self._known.get(text) for text in texts]
            if None not in found:
                return typing.cast(list[list[int]], found)
        for text in texts:
            interface.check_text(text)
        if not any(_SPACE_MARK in text for text in texts):
            return self._processor.encode(list(texts), num_threads=1)
        return [self._encode_around_space_marks(text) for text in texts]

    def decode(self, ids: collections.abc.Iterable[int]) -> str:
        """Returns the text of the ids; special ids give nothing, cut characters give U+FFFD.

        Raises: ValueError for an id outside the vocabulary.
        """
        pieces = []
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise ValueError(
                    f"token id must lie in 0..{self.vocab_size - 1}; got {token} (decode). "
                    "Decode ids of this tokenizer only."
                )
            pieces.append(self._table[token])
        return b"".join(pieces).decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """Returns the bytes of one id of the vocabulary; none of a special one."""
        return self._table[token]

    def save(self, path: str | os.PathLike) -> None:
        """Writes the model bytes to `path`, whole or not at all."""
        path = pathlib.Path(path)
        partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
        partial.write_bytes(self.model)
        os.replace(partial, path)

    def _encode_around_space_marks(self, text: str) -> list[int]:
        ids: list[int] = []
        for index, part in enumerate(text.split(_SPACE_MARK)):
            if index:
                ids.extend(self._space_mark_ids)
            ids.extend(self._processor.encode(part))
        return ids


def train_tokenizer(
    texts: collections.abc.Iterable[str],
    vocab_size: int,
    *,
    split_digits: bool = True,
    character_coverage: float = 0.9995,
) -> Tokenizer:
    """Returns a byte-pair tokenizer trained on the texts; the same texts give the same bytes.

    Args:
      texts: any strings; those above 4192 bytes are split, never dropped.
      vocab_size: tokens in all, of which 263 are bytes, specials and control markers.
      split_digits: whether every digit is a token of its own.
      character_coverage: share of the texts' characters that get a piece; others become bytes.
    Raises: ValueError for no text, invalid Unicode, or a vocabulary the texts cannot fill.
    """
    import sentencepiece

    lines = [line for text in texts for line in _training_lines(text)]
    if not lines:
        raise ValueError(
            "tokenizer texts must hold at least one character; got none (train_tokenizer). "
            "Check the path and the split of the training text."
        )
    writer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=writer, vocab_size=vocab_size,
            model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
            remove_extra_whitespaces=False, add_dummy_prefix=False,
            split_digits=split_digits, character_coverage=character_coverage,
            control_symbols=list(CONTROL), num_threads=1, minloglevel=3,
            pad_id=0, bos_id=1, eos_id=2, unk_id=3,
            pad_piece=PAD, bos_piece=BOS, eos_piece=EOS, unk_piece=UNKNOWN,
        )  # fmt: skip
    except (RuntimeError, OSError) as error:
        raise ValueError(_training_advice(str(error), vocab_size)) from None
    return from_bytes(writer.getvalue(), where="train_tokenizer")


def trainer() -> str:
    """What else than texts and options decides a trained tokenizer: the library's version."""
    import sentencepiece

    return f"sentencepiece {sentencepiece.__version__}"


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """Returns the tokenizer saved at `path`. Raises: ValueError for a missing or damaged file."""
    try:
        model = untrusted.read_bytes(path, untrusted.CONFIG)
    except OSError as error:
        raise ValueError(
            f"tokenizer model must be a readable file; got {error.strerror} ({path}). "
            "Give the file that Tokenizer.save wrote."
        ) from None
    return from_bytes(model, where=str(path))


def from_bytes(model: bytes, *, where: str = "tokenizer model") -> Tokenizer:
    """Returns the tokenizer of serialised model bytes; `where` stands in error messages."""
    import sentencepiece

    try:
        if not model:
            raise RuntimeError("empty")
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        pieces = [processor.id_to_piece(token) for token in range(processor.get_piece_size())]
    except (RuntimeError, OSError, UnicodeDecodeError):
        raise ValueError(
            f"tokenizer model must be a SentencePiece model; got {len(model)} bytes that do not "
            f"parse ({where}). Copy the file again or train a new tokenizer."
        ) from None
    ids = {piece: token for token, piece in enumerate(pieces)}
    needed = [PAD, BOS, EOS, *CONTROL, *(f"<0x{byte:02X}>" for byte in range(256))]
    missing = [piece for piece in needed if piece not in ids]
    missing += [piece for piece in CONTROL if piece in ids and not processor.is_control(ids[piece])]
    if missing or len(ids) != len(pieces):
        raise ValueError(
            f"tokenizer model must hold {', '.join(needed[:6])} as control symbols and 256 byte "
            f"pieces; got {len(missing)} missing ({where}). Train it with train_tokenizer."
        )
    return Tokenizer(
        fingerprint=hashlib.sha256(model).hexdigest(),
        model=model,
        vocab_size=len(pieces),
        pad_id=ids[PAD],
        bos_id=ids[BOS],
        eos_id=ids[EOS],
        control={marker: ids[marker] for marker in CONTROL},
        _processor=processor,
        _table=tuple(_bytes_of(piece, token, processor) for token, piece in enumerate(pieces)),
        _space_mark_ids=tuple(ids[piece] for piece in _SPACE_MARK_BYTES),
    )


def _bytes_of(piece: str, token: int, processor) -> bytes:
    if processor.is_control(token) or processor.is_unknown(token):
        return b""
    if processor.is_byte(token):
        return bytes([int(piece[3:5], 16)])  # a byte piece reads <0xE2>
    return piece.replace(_SPACE_MARK, " ").encode("utf-8")


def _training_lines(text: str) -> collections.abc.Iterator[str]:
    interface.check_text(text)
    for line in text.replace(_SPACE_MARK, " ").split("\n"):
        start = 0
        while start < len(line):
            stop = start + MAX_LINE_BYTES // 4  # a character takes at most 4 bytes
            if stop < len(line):
                stop = line.rfind(" ", start + MAX_LINE_BYTES // 8, stop) + 1 or stop
            yield line[start:stop]
            start = stop


def _training_advice(message: str, vocab_size: int) -> str:
    if "too high" in message:
        limit = re.search(r"value <= (\d+)", message)
        rule = f"be at most {limit[1]} for these texts" if limit else "be smaller for these texts"
        return (
            f"vocab_size must {rule}; got {vocab_size} (train_tokenizer). "
            "Lower it or train on more text."
        )
    if "required_chars_" in message or "too small" in message.lower():
        return (
            f"vocab_size must exceed the texts' characters plus 263; got {vocab_size} "
            "(train_tokenizer). Raise it or lower character_coverage."
        )
    condensed = " ".join(message.split())[:160]
    return (
        f"tokenizer training must succeed; got {condensed!r} (train_tokenizer, vocab_size "
        f"{vocab_size}). Check the texts and the options."
    )
