"""How a table of people's own data is made, in any layout and container."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from alignjax.data import comparisons, containers, corpus, reading, recipe, records, row_recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileRecipe(row_recipe.RowRecipe):
    """One table of one split of people's own data; a `recipe.Recipe`."""

    place: str
    names: str
    source: reading.Source

    def parts(self) -> tuple[list[containers.Part], bool]:
        """The parts of the split, and whether their names say so."""
        found = containers.parts(self.place, self.names)
        chosen, named = containers.select(found, self.split, self.place)
        return self.source.parts(chosen), named

    def selection(self) -> Mapping[str, Any]:
        """How rows are read."""
        own = self.source
        return {
            "layout": own.layout.name,
            "fields": sorted(own.fields.items()),
            "score": own.options.score,
        }

    def read(
        self, part: containers.Part, number: int, fields: records.Fields | records.DataError
    ) -> recipe.Reading:
        """The typed row, with its vote on two answers."""
        row = self.source.row(part, number, fields)
        if isinstance(row, records.DataError):
            return recipe.Reading(error=row)
        key, vote = comparisons.vote(row) or (b"", None)
        number_of = row.columns.get("id")
        return recipe.Reading(
            row,
            identity=b"" if number_of is None else recipe.digest(repr(number_of)),
            content=key[: recipe.DIGEST],
            opening=reading.opening(row),
            mark=row_recipe.mark_of(row),
            vote=vote,
            whole=key or comparisons.digest(row),
        )


def no_rows(place: str, split: str, read: int) -> records.DataError:
    """The error of a split without rows."""
    return records.problem(
        "data", f"hold at least one usable row for split {split!r}",
        f"{read} read, none left", file=place, reason="no rows",
        advice="Check the path, name a file for the split, or raise data.holdout.",
    )  # fmt: skip


def summary(count: int, read: int, reasons: str, merged: int) -> str:
    """One line of counts."""
    votes = f"; {merged} repeated pairs merged as votes" if merged else ""
    return f"{count} rows of {read} read; dropped: {reasons}{votes}"


def log_unweighted(log: corpus.Log, kind: str, split: str) -> None:
    """Logs that a kind of table has no weights, where it has none."""
    if kind not in ("pairs", "labelled"):
        log(f"{kind} of {split}: weights of rows are read in pairs and labels; each counts once")
