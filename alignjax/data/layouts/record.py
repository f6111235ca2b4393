"""One row's fields, read with checks: every error names file, line and field."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from alignjax.core import untrusted
from alignjax.data import records
from alignjax.data.records import DataError


class Record:
    """The fields of a row, and where it came from."""

    def __init__(self, fields: records.Fields, file: str, line: int, unit: str = "line"):
        self.fields, self.file, self.line, self.unit = fields, file, line, unit

    def __contains__(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.fields.get(name) is not None

    def bad(self, name: str, rule: str, got: str, advice: str, reason: str) -> DataError:
        """The error of a field."""
        return records.problem(
            name, rule, got, file=self.file, line=self.line, unit=self.unit, advice=advice,
            reason=reason,
        )  # fmt: skip

    def value(self, name: str) -> Any:
        """The field.

        Raises:
          DataError: it is not there, or null.
        """
        if name not in self.fields:
            shown = ", ".join(self.fields) or "none"
            advice = f"The row's fields are {shown[:200]}."
            raise self.bad(name, "be given", "no such field", advice, "missing field")
        if self.fields[name] is None:
            raise self.bad(name, "be given", "null", "Fill it in, or drop the row.", "null field")
        return self.fields[name]

    def text(self, name: str, *, empty: bool = False) -> str:
        """The field as text.

        Raises:
          DataError: it is no string, is blank (unless `empty`), or no valid Unicode.
        """
        return self.checked(name, self.value(name), empty=empty)

    def checked(self, name: str, value: Any, *, empty: bool = False) -> str:
        """A value as text, with the same checks; `name` says where it stands."""
        rule = "be a string" if empty else "be a non-empty string"
        if not isinstance(value, str):
            got, advice = records.kind(value), "Write text there."
            raise self.bad(name, rule, got, advice, "mistyped field")
        if not value.strip() and not empty:
            raise self.bad(name, rule, "an empty string", "Write text there.", "empty field")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            got = f"a lone surrogate at character {error.start}"
            advice = "Repair the escape."
            raise self.bad(name, "be valid Unicode", got, advice, "invalid Unicode") from None
        return value

    def optional(self, name: str) -> str:
        """The field as text, "" where it is absent or null."""
        return self.text(name, empty=True) if name in self else ""

    def number(self, name: str, value: Any = None) -> float:
        """The field, or a value of it, as a finite number; a string may spell one."""
        value = self.value(name) if value is None else value
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                value = None
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            got = records.kind(self.fields.get(name)) if value is None else repr(value)[:40]
            advice = "Write a number there, or drop the row."
            raise self.bad(name, "be a finite number", got, advice, "mistyped field")
        return float(value)

    def truth(self, name: str, value: Any = None) -> bool:
        """The field, or a value of it, as true or false; 0, 1 and their words are taken."""
        value = self.value(name) if value is None else value
        word = str(value).strip().lower()
        if word in ("true", "1", "1.0"):
            return True
        if word in ("false", "0", "0.0"):
            return False
        got, advice = records.kind(value), "Write true or false."
        raise self.bad(name, "be true or false", got, advice, "mistyped field")

    def items(self, name: str) -> list[Any]:
        """The field as a list; JSON of one, or an object of columns of one length, is taken."""
        return self.listed(name, self.value(name))

    def listed(self, name: str, value: Any) -> list[Any]:
        """A value as a list, with the same rules."""
        if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
            try:
                value = untrusted.parse_json(value, name)
            except untrusted.Refused:
                value = str(value)
        if isinstance(value, Mapping) and value:  # columns: Sequence of a feature dictionary
            columns = list(value.values())
            if all(isinstance(c, list) and len(c) == len(columns[0]) for c in columns):
                value = [
                    dict(zip(value, entry, strict=True)) for entry in zip(*columns, strict=True)
                ]
        if not isinstance(value, list):
            got, advice = records.kind(value), "Write a list there."
            raise self.bad(name, "be a list", got, advice, "mistyped field")
        return value

    def object(self, name: str, value: Any) -> Mapping[str, Any]:
        """A value as an object; JSON of one is taken.

        Raises:
          DataError: it is something else.
        """
        if isinstance(value, str) and value.lstrip()[:1] == "{":
            try:
                value = untrusted.parse_json(value, name)
            except untrusted.Refused:
                value = str(value)
        if not isinstance(value, Mapping):
            got, advice = records.kind(value), "Write an object there."
            raise self.bad(name, "be an object", got, advice, "mistyped field")
        return value

    def rest(self, used: Iterable[str]) -> dict[str, Any]:
        """The other fields: the row's columns."""
        names = set(used)
        return {name: value for name, value in self.fields.items() if name not in names}
