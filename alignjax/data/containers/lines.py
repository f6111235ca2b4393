"""JSON lines: one object a line, plain, gzip or zstd."""

import dataclasses
import json
import typing
from collections.abc import Iterator

from alignjax.core import untrusted
from alignjax.data import records, storage
from alignjax.data.containers import part

BLOCK = 8 << 20  # bytes between places where reading may begin
MAX_LINE_BYTES = 1 << 20
Line = tuple[int, bytes | records.DataError]


@dataclasses.dataclass(frozen=True)
class JsonLines(part.Part):
    """A .jsonl file; a BOM, CRLF and blank last lines pass."""

    max_line_bytes: int = MAX_LINE_BYTES
    unit: typing.ClassVar[str] = "line"

    def rows_from(self, start: part.Start = part.FIRST) -> part.Rows:
        """(line, JSON object or DataError)."""
        blank = 0
        for number, line in self.lines(start):
            if isinstance(line, bytes):
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if not line.strip():
                    blank = blank or number
                    continue
            if blank:
                got, advice = "a blank line before more rows", "Delete the blank line."
                yield blank, self._bad(blank, "hold a JSON object", got, advice, "blank line")
                blank = 0
            yield number, line if isinstance(line, records.DataError) else self._parse(line, number)

    def lines(self, start: part.Start) -> Iterator[Line]:
        """(number, line) of every line, one that is too long as a DataError."""
        try:
            with storage.plain(self.files[0]) as stream:
                if start.key:
                    stream.seek(start.key)
                yield from self._bounded(stream, start.row)
        except storage.UNREADABLE as error:
            detail = getattr(error, "strerror", None) or type(error).__name__
            raise part.damaged(self, detail) from None

    def _bounded(self, stream: typing.BinaryIO, first: int) -> Iterator[Line]:
        limit, number = self.max_line_bytes, first - 1
        while line := stream.readline(limit + 1):
            number += 1
            if len(line) <= limit or line.endswith(b"\n"):
                yield number, line
                continue
            rule, advice = f"have at most {limit} bytes", "Split the row, or raise max_line_bytes."
            error = self._bad(number, rule, "more", advice, "huge line")
            for _ in range(64):  # read on to the line's end, within reason
                if (line := stream.readline(limit)).endswith(b"\n") or not line:
                    break
            else:
                raise error
            yield number, error

    def starts(self) -> tuple[part.Start, ...]:
        """Beginnings of lines, some megabytes apart; one alone in a compressed file."""
        if storage.is_compressed(self.files[0]):
            return (part.FIRST,)
        starts, line, at = [part.FIRST], 1, 0
        with storage.opened(self.files[0]) as stream:
            while block := stream.read(BLOCK):
                last = block.rfind(b"\n") + 1
                if last and at + last > starts[-1].key:
                    starts.append(part.Start(line + block.count(b"\n"), at + last))
                line += block.count(b"\n")
                at += len(block)
        return tuple(start for start in starts if start.key < at or start is starts[0])

    def _parse(self, line: bytes, number: int) -> records.Fields | records.DataError:
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            got = f"an invalid byte at offset {error.start}"
            advice = "Save the file as UTF-8; a binary file is no JSONL."
            return self._bad(number, "be UTF-8", got, advice, "invalid UTF-8")
        value, got, reason = parse(text)
        if not got:
            if isinstance(value, dict):
                return value
            got, reason = f"a JSON {records.kind(value)}", "not an object"
        advice = "Write one object a line."
        return self._bad(number, "be one whole JSON object", got, advice, reason)

    def _bad(self, number: int, rule: str, got: str, advice: str, reason: str) -> records.DataError:
        return records.problem(
            "row", rule, got, file=self.where, line=number, advice=advice, reason=reason
        )


def parse(text: str) -> tuple[typing.Any, str, str]:
    """(value, "", ""), or (None, what is wrong with it, its short name)."""
    try:
        return untrusted.decode(text, strict=True), "", ""
    except RecursionError:
        return None, "JSON nested too deeply", "nested JSON"
    except json.JSONDecodeError as error:
        return None, f"{error.msg.lower()} at column {error.colno}", "invalid JSON"
    except ValueError as error:
        return None, str(error)[:80], "invalid JSON"
