"""Records of JSONL files, read with every check that a stranger's file needs.

A record that breaks a rule is yielded as a `DataError`, so that the caller decides to stop or
to skip it; a file that cannot be read on (cut gzip, a folder in its place) raises at once.
Messages name file, line and rule, and never quote the text of a row.
"""

import collections.abc
import gzip
import hashlib
import json
import os
import pathlib
import typing
import zlib

MAX_LINE_BYTES = 1 << 20
_SUFFIXES = (".jsonl", ".jsonl.gz")
Fields = dict[str, typing.Any]  # a row: its fields by name


class DataError(ValueError):
    """Data that cannot be used, in one line; `reason` is a short name to count it by."""

    def __init__(self, message: str, reason: str = "unreadable"):
        super().__init__(message)
        self.reason = reason


def problem(
    subject: str, rule: str, got: str, *, file: str, advice: str, reason: str, line: int = 0
) -> DataError:
    """Returns the DataError in the project's form; line 0 stands for the file as a whole."""
    where = f"{file}, line {line}" if line else file
    return DataError(f"{subject} must {rule}; got {got} ({where}). {advice}", reason)


def jsonl_files(path: str | os.PathLike[str], names: str = "*") -> list[pathlib.Path]:
    """Returns the JSONL files of a folder whose name matches `names`, sorted, or the one file.

    Raises: DataError when there is none, or one is a folder, a device, or a link that leaves
      the folder.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise problem(
            "data path", "exist", "nothing there", file=str(path), reason="missing path",
            advice="Check the spelling, or download the data first.",
        )  # fmt: skip
    if not path.is_dir():
        return [_regular(path)]
    files = [p for p in sorted(path.glob(names)) if p.name.endswith(_SUFFIXES)]
    if not files:
        raise problem(
            "data folder", f"hold *.jsonl or *.jsonl.gz files named {names!r}", "none",
            file=str(path), reason="no files", advice="Give the folder that holds them.",
        )  # fmt: skip
    root = path.resolve()
    for file in files:
        if not file.resolve().is_relative_to(root):
            raise problem(
                "data file", "stay inside its folder", "a link that leaves it", file=str(file),
                reason="link", advice="Copy the file into the folder.",
            )  # fmt: skip
    return [_regular(file) for file in files]


def read_jsonl(
    file: pathlib.Path, *, max_line_bytes: int = MAX_LINE_BYTES
) -> collections.abc.Iterator[tuple[int, Fields | DataError]]:
    """Yields (line number, JSON object or DataError); a BOM, CRLF and blank last lines pass.

    Raises: DataError when the file cannot be read to its end.
    """
    blank = 0
    try:
        with _open(file) as stream:
            for number, line in _lines(stream, file, max_line_bytes):
                if isinstance(line, bytes):
                    line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                    if not line.strip():
                        blank = blank or number
                        continue
                if blank:
                    yield blank, _row_problem(
                        file, blank, "hold a JSON object", "a blank line before more rows",
                        "Delete the blank line.", "blank line",
                    )  # fmt: skip
                    blank = 0
                yield number, line if isinstance(line, DataError) else _parse(line, file, number)
    except (EOFError, zlib.error, OSError) as error:
        detail = getattr(error, "strerror", None) or type(error).__name__
        raise problem(
            "data file", "be readable to its end", f"{detail}", file=str(file),
            reason="unreadable", advice="The file is cut or damaged: copy it again.",
        ) from None  # fmt: skip


def fingerprint(files: collections.abc.Iterable[pathlib.Path]) -> str:
    """Returns the sha256, in hex, over the names and contents of the files, in their order."""
    total = hashlib.sha256()
    for file in files:
        digest = hashlib.sha256()
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        total.update(f"{file.name}\0{digest.hexdigest()}\n".encode())
    return total.hexdigest()


def _regular(file: pathlib.Path) -> pathlib.Path:
    if not file.is_file():
        got = "a folder" if file.is_dir() else "something that is no regular file"
        raise problem(
            "data file", "be a regular file", got, file=str(file), reason="not a file",
            advice="Give a .jsonl or .jsonl.gz file.",
        )  # fmt: skip
    return file


def _open(file: pathlib.Path) -> typing.BinaryIO | gzip.GzipFile:
    with open(file, "rb") as stream:
        is_gzip = stream.read(2) == b"\x1f\x8b"
    return gzip.open(file, "rb") if is_gzip else open(file, "rb")


def _lines(
    stream: typing.BinaryIO | gzip.GzipFile, file: pathlib.Path, limit: int
) -> collections.abc.Iterator[tuple[int, bytes | DataError]]:
    number = 0
    while line := stream.readline(limit + 1):
        number += 1
        if len(line) <= limit or line.endswith(b"\n"):
            yield number, line
            continue
        error = _row_problem(
            file, number, f"have at most {limit} bytes", "more",
            "Split the row, or raise max_line_bytes.", "huge line",
        )  # fmt: skip
        for _ in range(64):  # read on to the line's end, within reason
            if (line := stream.readline(limit)).endswith(b"\n") or not line:
                break
        else:
            raise error
        yield number, error


def _parse(line: bytes, file: pathlib.Path, number: int) -> Fields | DataError:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return _row_problem(
            file, number, "be UTF-8", f"an invalid byte at offset {error.start}",
            "Save the file as UTF-8; a binary file is no JSONL.", "invalid UTF-8",
        )  # fmt: skip
    try:
        value = json.loads(text, parse_constant=_refuse, object_pairs_hook=_distinct)
    except RecursionError:
        got, reason = "JSON nested too deeply", "nested JSON"
    except json.JSONDecodeError as error:
        got, reason = f"{error.msg.lower()} at column {error.colno}", "invalid JSON"
    except ValueError as error:
        got, reason = str(error)[:80], "invalid JSON"
    else:
        if isinstance(value, dict):
            return value
        got, reason = f"a JSON {kind(value)}", "not an object"
    return _row_problem(
        file, number, "be one whole JSON object", got, "Write one object a line.", reason
    )


def _row_problem(
    file: pathlib.Path, number: int, rule: str, got: str, advice: str, reason: str
) -> DataError:
    return problem("row", rule, got, file=str(file), line=number, advice=advice, reason=reason)


def _refuse(name: str) -> typing.NoReturn:
    raise ValueError(f"the number {name}, which JSON does not have")


def _distinct(pairs: list[tuple[str, object]]) -> Fields:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field given twice")
    return fields


def kind(value: object) -> str:
    """Returns the JSON name of a value's type."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    names = {str: "string", int: "number", float: "number", list: "list", dict: "object"}
    return names.get(type(value), type(value).__name__)
