"""Fields of a row, the errors of data, and values as containers give them."""

import typing
from collections.abc import Mapping

Fields = dict[str, typing.Any]  # a row: its fields by name


class DataError(ValueError):
    """Data that cannot be used, in one line; `reason` is a short name to count it by."""

    def __init__(self, message: str, reason: str = "unreadable"):
        super().__init__(message)
        self.reason = reason


def problem(
    subject: str,
    rule: str,
    got: str,
    *,
    file: str,
    advice: str,
    reason: str,
    line: int = 0,
    unit: str = "line",
) -> DataError:
    """Returns the DataError in the project's form; line 0 stands for the file as a whole."""
    where = f"{file}, {unit} {line}" if line else file
    return DataError(f"{subject} must {rule}; got {got} ({where}). {advice}", reason)


def kind(value: object) -> str:
    """Returns the JSON name of a value's type."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    names = {str: "string", int: "number", float: "number", list: "list", dict: "object"}
    return names.get(type(value), type(value).__name__)


def decoded(value: typing.Any) -> typing.Any:
    """A value of a binary container as JSON would hold it: bytes are UTF-8, arrays are lists.

    Raises:
      UnicodeDecodeError: bytes are no UTF-8.
    """
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, Mapping):
        return {str(name): decoded(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [decoded(entry) for entry in value]
    if hasattr(value, "tolist"):  # NumPy's arrays and numbers
        return decoded(value.tolist())
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)  # dates, times and decimals, which JSON does not have


def row(
    fields: Mapping[str, typing.Any], file: str, number: int, unit: str = "row"
) -> Fields | DataError:
    """The decoded fields of a row, or its DataError."""
    result = {}
    for name, value in fields.items():
        try:
            result[name] = decoded(value)
        except UnicodeDecodeError as error:
            return problem(
                name, "be UTF-8", f"an invalid byte at offset {error.start}", file=file,
                line=number, unit=unit, advice="Write the column again from UTF-8.",
                reason="invalid UTF-8",
            )  # fmt: skip
    return result
