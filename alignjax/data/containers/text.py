"""Plain text files: pieces of whole lines, cut at blank lines where there are any."""

import codecs
from collections.abc import Callable

from alignjax.data import records, storage
from alignjax.data.containers import part

PIECE = 1 << 16  # characters above which a piece ends at the next blank line
LONGEST = 1 << 20  # characters above which it ends at the next line end


class TextFile(part.Part):
    """A .txt file; rows are {"text": piece}, numbered by their first line."""

    unit = "line"

    def rows_from(self, start: part.Start = part.FIRST) -> part.Rows:
        """(first line, {"text": piece} or DataError); pieces of blank lines alone are left out."""
        piece: list[str] = []
        first = size = 0
        try:
            with storage.plain(self.files[0]) as stream:
                decode = codecs.getincrementaldecoder("utf-8")().decode
                lines = iter(lambda: stream.readline(LONGEST), b"")
                for number, line in enumerate(lines, start=1):
                    text = self._text(decode, line, number)
                    if isinstance(text, records.DataError):
                        yield number, text
                        continue
                    first = first or number
                    piece.append(text)
                    size += len(text)
                    if (size >= PIECE and not text.strip()) or size >= LONGEST:
                        yield first, {"text": "".join(piece)}
                        piece, first, size = [], 0, 0
        except storage.UNREADABLE as error:
            raise part.damaged(self, storage.condensed(error)) from None
        if "".join(piece).strip():
            yield first, {"text": "".join(piece)}

    def _text(
        self, decode: Callable[[bytes], str], line: bytes, number: int
    ) -> str | records.DataError:
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        try:
            return decode(line).replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            return records.problem(
                "line", "be UTF-8", f"an invalid byte at offset {error.start}", file=self.where,
                line=number, advice="Save the file as UTF-8.", reason="invalid UTF-8",
            )  # fmt: skip
