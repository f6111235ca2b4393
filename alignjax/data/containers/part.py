"""One piece of data that is read row by row: a file, or a split of a data set."""

import abc
import dataclasses
import re
import typing
from collections.abc import Iterator, Mapping

from alignjax.data import records

Rows = Iterator[tuple[int, records.Fields | records.DataError]]
_TRAIN_WORDS = {"train", "training"}
_EVAL_WORDS = {"eval", "evaluation", "test", "valid", "validation", "dev"}


class Start(typing.NamedTuple):
    """Where reading may begin: the number of the row there, and what the container seeks to."""

    row: int = 1
    key: int = 0


FIRST = Start()


@dataclasses.dataclass(frozen=True)
class Part(abc.ABC):
    """name: what tells its split. where: in messages. files: all that its rows depend on."""

    name: str
    where: str
    files: tuple[str, ...]
    unit: typing.ClassVar[str] = "row"

    @property
    def split(self) -> str | None:
        """ "train" or "eval" where the name says so."""
        return split_of(self.name)

    @abc.abstractmethod
    def rows_from(self, start: Start = FIRST) -> Rows:
        """(number from 1, fields, or the DataError of a row that breaks a rule), in order.

        Memory does not grow with the number of rows.

        Raises:
          DataError: the file cannot be read on.
        """

    def rows(self) -> Rows:
        """All rows."""
        return self.rows_from()

    def starts(self) -> tuple[Start, ...]:
        """Places from which reading may begin at little cost, in order; the first is FIRST."""
        return (FIRST,)

    def schema(self) -> Mapping[str, str]:
        """{column: type} where the container states them; {} where it does not."""
        return {}


def split_of(name: str) -> str | None:
    """The split that a name states: a whole word, so `latest` is no test."""
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    if words & _EVAL_WORDS:
        return "eval"
    return "train" if words & _TRAIN_WORDS else None


def damaged(part: Part, got: str, *, reason: str = "unreadable") -> records.DataError:
    """The error of a part that cannot be read on."""
    return records.problem(
        "data file", "be readable to its end", got, file=part.where, reason=reason,
        advice="The file is cut or damaged: copy it again.",
    )  # fmt: skip


def check_schemas(parts: list[Part]) -> None:
    """Refuses parts whose columns or types differ from those of the first.

    Raises:
      DataError: naming the file and the first column that differs.
    """
    if not parts:
        return
    first = parts[0].schema()
    for part in parts[1:]:
        own = part.schema()
        for name in dict.fromkeys([*first, *own]):
            if first.get(name) == own.get(name) or not (first and own):
                continue
            raise records.problem(
                f"column {name}", f"be {first.get(name, 'absent')} as in {parts[0].name}",
                own.get(name, "no such column"), file=part.where, reason="mixed schemas",
                advice="Write all shards with one schema, or select files by data.names.",
            )  # fmt: skip
