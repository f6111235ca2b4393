"""Files of tokens: one a line, after a name."""

import pathlib
from collections.abc import Iterator

SHORTEST = 16  # characters of a token


def lines(path: str) -> Iterator[tuple[str, str]]:
    """(where it stands, text) of every line but empty ones and comments, which # begins.

    Raises:
      ValueError: no such file, or no text.
    """
    try:
        every = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8"
        raise ValueError(f"--token_file must be a file of tokens; got {path} ({reason}).") from None
    for number, line in enumerate(every, 1):
        if line.strip() and not line.strip().startswith("#"):
            yield f"{path}, line {number}", line
