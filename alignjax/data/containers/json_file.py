"""A .json file: one array of objects, read element by element, or JSON lines under that name."""

import codecs
import json
import re
import typing
from collections.abc import Iterator

from alignjax.core import untrusted
from alignjax.data import records, storage
from alignjax.data.containers import lines, part

BLOCK = 1 << 20  # bytes read at a time
LIMIT = 64 << 20  # characters of the longest element
_SPACE = re.compile(r"[ \t\n\r]*")


class JsonFile(lines.JsonLines):
    """The objects of an array by their number from 1; lines where the file begins as an object."""

    def rows_from(self, start: part.Start = part.FIRST) -> part.Rows:
        """(number, object or DataError)."""
        if self._is_array():
            yield from self._elements()
        else:
            yield from super().rows_from(start)

    def starts(self) -> tuple[part.Start, ...]:
        """One, in an array; else as of JSON lines."""
        return (part.FIRST,) if self._is_array() else super().starts()

    def _is_array(self) -> bool:
        try:
            with storage.plain(self.files[0]) as stream:
                return stream.read(BLOCK).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
        except storage.UNREADABLE as error:
            raise part.damaged(self, type(error).__name__) from None

    def _blocks(self) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        try:
            with storage.plain(self.files[0]) as stream:
                while block := stream.read(BLOCK):
                    yield decoder.decode(block)
                yield decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise part.damaged(self, f"no UTF-8, {error.reason}", reason="invalid UTF-8") from None
        except storage.UNREADABLE as error:
            raise part.damaged(self, storage.condensed(error)) from None

    def _elements(self) -> part.Rows:
        blocks = self._blocks()
        text = next(blocks)
        at, number = text.index("[") + 1, 0
        while True:
            at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
            value, end, wrong = _decoded(text, at)
            closed = text[at : at + 1] == "]"
            if not closed and (end < 0 or not text[end : end + 16].strip()):
                # The element, or what follows it, may go on in the next block.
                more = next(blocks, "")
                if more:
                    text, at = text[at:] + more, 0
                    if len(text) > LIMIT:
                        raise part.damaged(self, f"an element above {LIMIT} characters")
                    continue
            if closed:
                return
            if end < 0:
                got = f"{wrong} in element {number + 1}" if at < len(text) else "no closing bracket"
                raise part.damaged(self, got, reason="invalid JSON")
            number += 1
            yield number, self._object(value, number)
            at = _SPACE.match(text, end).end()  # type: ignore[union-attr]
            if text[at : at + 1] == ",":
                at += 1
            elif text[at : at + 1] != "]":
                got = f"no comma after element {number}"
                raise part.damaged(self, got, reason="invalid JSON")

    def _object(self, value: typing.Any, number: int) -> records.Fields | records.DataError:
        if isinstance(value, dict):
            return value
        return records.problem(
            "element", "be an object", f"a JSON {records.kind(value)}", file=self.where,
            line=number, unit="element", advice="Write a list of objects.", reason="not an object",
        )  # fmt: skip


def _decoded(text: str, at: int) -> tuple[typing.Any, int, str]:
    """(value, its end, ""), or (None, -1, what is wrong)."""
    try:
        value, end = untrusted.decode_at(text, at)
    except RecursionError:
        return None, -1, "JSON nested too deeply"
    except json.JSONDecodeError as error:
        return None, -1, error.msg.lower()
    except ValueError as error:
        return None, -1, str(error)[:80]
    return value, end, ""
