"""What `prepare` asks of data: how rows are read, which are kept, and how they become a table."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from alignjax.data import comparisons, containers, examples, records, tables

DROP, JOIN, KEEP = "drop", "join", "keep"
DIGEST = 16  # bytes of a digest; by chance two of 10^10 rows share one with probability 1e-19


def digest(text: str) -> bytes:
    """A digest of a text, for `Reading`."""
    return hashlib.sha256(text.encode()).digest()[:DIGEST]


class Reading(NamedTuple):
    """A row of the source as it was read.

    row: the typed row; None where `error` says what is wrong. identity: digest of the field that
    must be unique, b"" without one. content: digest of what rows must not repeat, or of what
    `vote` is on, b"" of nothing. opening: digest of what must not stand on both sides of a
    hold-out. mark: a number below 256; rows of a split are counted by it. whole: digest of all that
    the row says, b"" where `content` is that.
    """

    row: Any = None
    error: records.DataError | None = None
    identity: bytes = b""
    content: bytes = b""
    opening: bytes = b""
    mark: int = 0
    vote: comparisons.Vote | None = None
    whole: bytes = b""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """Which rows are kept.

    unusable: reasons of errors that drop a row up to `max_unusable_share`; all others are broken
    rows, which stop, or with `skip` are dropped up to `max_bad_share`. holdout: share of openings
    that are the eval split's where file names do not say: the smallest of those that are there,
    or `by_number` those below this share of all numbers, so that a row's split depends on it alone.
    repeated: DROP keeps the first row of each content, JOIN gives it the votes of all,
    KEEP compares none.
    """

    skip: bool = False
    unusable: tuple[str, ...] = ()
    max_bad_share: float = 0.01
    max_unusable_share: float = 0.02
    holdout: float = 0.05
    by_number: bool = False
    repeated: str = DROP


class Recipe(Protocol):
    """How one table of one split is made. A value that can be sent to another process.

    split: "train" or "eval". limit: rows used; 0 is all. vocab_size, pad: of the tokenizer.
    max_truncated_share: of rows, or the table is refused.
    """

    @property
    def split(self) -> str: ...
    @property
    def rules(self) -> Rules: ...
    @property
    def limit(self) -> int: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def pad(self) -> int: ...
    @property
    def max_truncated_share(self) -> float: ...

    def parts(self) -> tuple[list[containers.Part], bool]:
        """The parts to read in order, and whether their names alone decide the split."""
        ...

    def selection(self) -> Mapping[str, Any]:
        """All that decides how rows are read and kept, but for files and rules; JSON."""
        ...

    def making(self) -> Mapping[str, Any]:
        """All that decides how rows become a table: kind, lengths, tokenizer, template; JSON."""
        ...

    def read(
        self, part: containers.Part, number: int, fields: records.Fields | records.DataError
    ) -> Reading:
        """A row of a part."""
        ...

    def encode(
        self, rows: Sequence[Any], first: int
    ) -> tuple[tables.Table | list[bytes], examples.Counts]:
        """The table of typed rows, or a record of bytes for each; first: the number of the first
        among all kept rows.

        Nothing is raised for what is cut or dropped, nor where nothing is left: it is counted.
        """
        ...
