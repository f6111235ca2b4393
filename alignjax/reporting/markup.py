"""Text and tables as HTML."""

import html
import unicodedata
from collections.abc import Sequence
from typing import Any


def escape(value: Any) -> str:
    """Text for HTML: markup escaped; control characters and half a surrogate pair as U+FFFD."""
    bad = {c for c in str(value) if unicodedata.category(c) in ("Cc", "Cs")} - {"\n", "\t"}
    return html.escape("".join("\ufffd" if c in bad else c for c in str(value)))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls by itself; heads and cells are HTML, the first of a row is its head."""
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    body = "\n".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return f"""<div class="card scroll"><table><thead><tr>{top}</tr></thead>
<tbody>{body}</tbody></table></div>"""
