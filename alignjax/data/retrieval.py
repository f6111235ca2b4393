"""Passages for a query by BM25, of the package bm25s: extra `eval`."""

import importlib.util
import pathlib
from collections.abc import Callable, Sequence

from alignjax.core import untrusted, values

WORDS = 120  # of a passage, at most
Find = Callable[[Sequence[str]], list[list[str]]]  # queries -> passages of each, the best first


def check_installed(what: str) -> None:
    """Raises ValueError, naming what needs it and the extra to install, without bm25s."""
    if importlib.util.find_spec("bm25s") is None:
        raise ValueError(
            f"{what} needs the package bm25s; it is not installed. Run pip install "
            "'alignjax[eval]'."
        )


def read(path: str) -> list[str]:
    """The passages of a file: each line of JSONL has "text", and may have "title", which begins
    each of its passages; of any other file, its paragraphs.

    A text of more than `WORDS` words is cut into several.

    Raises:
      ValueError: the file is missing, no text, or holds no passage; a line is no such object.
    """
    file = pathlib.Path(path)
    try:
        whole = untrusted.read_text(path, untrusted.ROWS)
    except OSError as error:
        raise ValueError(
            f"documents must be a file of text; got {path!r} ({type(error).__name__})."
        ) from None
    if file.suffix == ".jsonl":
        lines = enumerate(whole.split("\n"), 1)
        texts = [_document(line, f"{path}:{n}") for n, line in lines if line.strip()]
    else:
        texts = [("", part) for part in whole.split("\n\n")]
    found = [passage for title, text in texts for passage in _passages(title, text)]
    if not found:
        raise ValueError(f"documents must hold a text at least; got none ({path}).")
    return found


def _document(line: str, where: str) -> tuple[str, str]:
    try:
        fields = untrusted.parse_json(line, where)
        title, text = fields.get("title", ""), fields["text"]
    except (ValueError, KeyError, TypeError, AttributeError):
        title, text = None, None
    if not isinstance(title, str) or not isinstance(text, str):
        raise ValueError(f'a document must be like {{"title": "", "text": "..."}} ({where}).')
    return title, text


def _passages(title: str, text: str) -> list[str]:
    words = text.split()
    parts = [" ".join(words[i : i + WORDS]) for i in range(0, len(words), WORDS)]
    return [f"{title}: {part}" if title else part for part in parts]


def index(passages: Sequence[str], *, count: int = 3) -> Find:
    """Finds the `count` passages of the largest scores for each query; fewer where words of the
    query stand in fewer.

    Equal scores go by the place of the passage, so that equal calls have equal answers.

    Raises:
      ValueError: no passages, count < 1, or bm25s is not installed.
    """
    check_installed("retrieval")
    values.check_number("passages of a query", count, minimum=1)
    if not passages:
        raise ValueError("retrieval must have a passage at least; got none.")
    import bm25s

    def tokens(texts: Sequence[str]) -> list[list[str]]:
        own = bm25s.tokenize(
            list(texts), stopwords=None, token_pattern=r"(?u)\b\w+\b", return_ids=False,
            show_progress=False,
        )  # fmt: skip
        return [list(words) for words in own]

    known = tokens(passages)
    vocabulary = {word for words in known for word in words}
    ranker = bm25s.BM25()
    ranker.index(known, show_progress=False)

    def find(queries: Sequence[str]) -> list[list[str]]:
        found = []
        for words in tokens(queries):
            kept = [word for word in words if word in vocabulary]
            scores = ranker.get_scores(kept) if kept else []
            order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count]
            found.append([passages[i] for i in order if scores[i] > 0])
        return found

    return find
