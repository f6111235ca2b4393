"""The tokenizer of an open-weight model, whatever file it was read from."""

import collections.abc
import dataclasses
import hashlib
import json
import typing

from alignjax.text.tokenizers import interface

SPACE_MARK = "\u2581"  # what SentencePiece writes for a space
_SPACE_MARK_BYTES = tuple(f"<0x{byte:02X}>" for byte in SPACE_MARK.encode("utf-8"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenedTokenizer:
    """A tokenizer with its ids read out; see `interface.TextTokenizer`.

    lossless: decode(encode(text)) == text for every text; False where the model's own rules
    change characters (Unicode normal forms, squeezed spaces, no byte tokens).
    chat_template: the Jinja source that the file carries, None where it carries none.
    origin: "tokenizer.json", "sentencepiece" or "gguf". starts_with_bos: see the interface.
    """

    fingerprint: str
    vocab_size: int = dataclasses.field(compare=False)
    pad_id: int | None
    bos_id: int | None
    eos_id: int | None
    special: collections.abc.Mapping[str, int] = dataclasses.field(compare=False, repr=False)
    lossless: bool = dataclasses.field(compare=False)
    origin: str = dataclasses.field(compare=False)
    chat_template: str | None = dataclasses.field(compare=False, repr=False)
    starts_with_bos: bool = False
    # (texts, whether a space goes before each) -> ids; the table holds the bytes of each id
    _encode: typing.Callable[[list[str], bool], list[list[int]]] = dataclasses.field(
        compare=False, repr=False
    )
    _table: tuple[bytes, ...] = dataclasses.field(compare=False, repr=False)
    _spaced_after: frozenset[str] = dataclasses.field(compare=False, repr=False)
    _space_mark_ids: tuple[int, ...] = dataclasses.field(compare=False, repr=False)

    def encode(self, text: str, after: str = interface.NOTHING) -> list[int]:
        """Returns the ids of the text alone: no BOS, EOS or control id, whatever the text says.

        Args:
          after: what stands before it: "nothing", "special" (a control token) or "text".
        Raises: ValueError for a text that is not valid Unicode, or another `after`.
        """
        return self.encode_many([text], after)[0]

    def encode_many(
        self, texts: collections.abc.Sequence[str], after: str = interface.NOTHING
    ) -> list[list[int]]:
        """Returns `encode` of each text, in one call of the library."""
        interface.check_place(after)
        for text in texts:
            interface.check_text(text)
        spaced = after in self._spaced_after
        if not self._space_mark_ids or not any(SPACE_MARK in text for text in texts):
            return self._encode(list(texts), spaced)
        return [self._encode_around_space_marks(text, spaced) for text in texts]

    def decode(self, ids: collections.abc.Iterable[int]) -> str:
        """Returns the text of the ids; special ids give nothing, cut characters give U+FFFD.

        Where the vocabulary puts a space before a document, that one space is taken off again.

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
        joined = b"".join(pieces)
        if self.starts_with_space:
            joined = joined.removeprefix(b" ")
        return joined.decode("utf-8", errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """Returns the bytes of one id of the vocabulary; none of a special one."""
        return self._table[token]

    @property
    def starts_with_space(self) -> bool:
        """Whether the vocabulary puts a space before a document, which `decode` takes off again."""
        return interface.NOTHING in self._spaced_after

    def with_pad(self, name: str) -> "OpenedTokenizer":
        """Returns the tokenizer with the control token `name` as pad.

        Any will do, the end token too, since masks come from lengths; but it is stated, not
        guessed. Raises: ValueError for a name that is no control token.
        """
        if name not in self.special:
            raise ValueError(
                f"pad must be one of the {len(self.special)} control tokens "
                f"({', '.join(list(self.special)[:6])}, ...); got {name!r} (with_pad). "
                "Name another."
            )
        return dataclasses.replace(self, pad_id=self.special[name])

    def spaced_at_start_only(self) -> "OpenedTokenizer":
        """Returns the tokenizer with no space before a text that follows a control token."""
        return dataclasses.replace(
            self, _spaced_after=self._spaced_after & frozenset({interface.NOTHING})
        )

    def _encode_around_space_marks(self, text: str, spaced: bool) -> list[int]:
        ids: list[int] = []
        for index, part in enumerate(text.split(SPACE_MARK)):
            if index:
                ids.extend(self._space_mark_ids)
            ids.extend(self._encode([part], spaced and not index)[0])
        return ids


def space_mark_ids(ids: collections.abc.Mapping[str, int]) -> tuple[int, ...]:
    """Returns the byte tokens of U+2581, (): the vocabulary has none, and reads it as a space."""
    if all(piece in ids for piece in _SPACE_MARK_BYTES):
        return tuple(ids[piece] for piece in _SPACE_MARK_BYTES)
    return ()


def sentencepiece_bytes(piece: str) -> bytes:
    """Returns the bytes of a SentencePiece piece: <0xE2> is a byte, U+2581 a space."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace(SPACE_MARK, " ").encode("utf-8")


def fingerprint(*parts: bytes | str | None) -> str:
    """Returns sha256 of the parts; a single part of bytes gives the hash of just that."""
    if len(parts) == 1 and isinstance(parts[0], bytes):
        return hashlib.sha256(parts[0]).hexdigest()
    hashes = [
        hashlib.sha256(part.encode() if isinstance(part, str) else part or b"").hexdigest()
        for part in parts
    ]
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()
