"""A tokenizer that is asked twice: what a piece of work will encode is found out, then encoded in
one call of the library, then looked up.

A call for one text costs a library as much as a hundred short ones in a batch.
"""

import collections.abc
import dataclasses
import typing

from alignjax.text.tokenizers import interface

Key = tuple[str, str]  # a text, and what stands before it


@dataclasses.dataclass(eq=False)
class Ahead:
    """The tokenizer `own`. While `listening` every text is noted and has no tokens."""

    own: interface.TextTokenizer
    listening: bool = False
    known: dict[Key, list[int]] = dataclasses.field(default_factory=dict)
    wanted: dict[Key, None] = dataclasses.field(default_factory=dict)
    laid: dict[collections.abc.Hashable, typing.Any] = dataclasses.field(default_factory=dict)

    def once(
        self, key: collections.abc.Hashable, make: collections.abc.Callable[[], typing.Any]
    ) -> typing.Any:
        """What `make` returns, made the first time that this key is asked for."""
        if key not in self.laid:
            self.laid[key] = make()
        return self.laid[key]

    def encode(self, text: str, after: str = interface.NOTHING) -> list[int]:
        """The ids of a text, as of `own`."""
        key = (text, after)
        ids = self.known.get(key)
        if ids is not None:
            return ids
        if self.listening:
            self.wanted[key] = None
            return []
        ids = self.known[key] = self.own.encode(text, after)
        return ids

    def encode_many(
        self, texts: collections.abc.Sequence[str], after: str = interface.NOTHING
    ) -> list[list[int]]:
        """`encode` of each text."""
        return [self.encode(text, after) for text in texts]

    def answer(self) -> None:
        """Encodes all that was wanted, in one call for each place."""
        for after in interface.PLACES:
            texts = [text for text, place in self.wanted if place == after]
            if texts:
                given = zip(texts, self.own.encode_many(texts, after), strict=True)
                self.known |= {(text, after): ids for text, ids in given}
        self.wanted.clear()

    def decode(self, ids: collections.abc.Iterable[int]) -> str:
        """The text of the ids."""
        return self.own.decode(ids)

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one id."""
        return self.own.token_bytes(token)

    @property
    def starts_with_space(self) -> bool:
        return self.own.starts_with_space

    @property
    def starts_with_bos(self) -> bool:
        return self.own.starts_with_bos

    @property
    def fingerprint(self) -> str:
        return self.own.fingerprint

    @property
    def vocab_size(self) -> int:
        return self.own.vocab_size

    @property
    def pad_id(self) -> int | None:
        return self.own.pad_id

    @property
    def bos_id(self) -> int | None:
        return self.own.bos_id

    @property
    def eos_id(self) -> int | None:
        return self.own.eos_id

    @property
    def special(self) -> collections.abc.Mapping[str, int]:
        return self.own.special
