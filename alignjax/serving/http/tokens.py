"""Files of tokens: one a line, after a name."""

from collections.abc import Iterator

from alignjax.core import untrusted

SHORTEST = 16  # characters of a token


def lines(path: str) -> Iterator[tuple[str, str]]:
    """(where it stands, text) of every line but empty ones and comments, which # begins.

    Raises:
      ValueError: no such file, or no text.
    """
    try:
        every = untrusted.read_text(path, untrusted.OPTION).splitlines()
    except OSError as error:
        raise ValueError(
            f"--token_file must be a file of tokens; got {path} ({error.strerror})."
        ) from None
    for number, line in enumerate(every, 1):
        if line.strip() and not line.strip().startswith("#"):
            yield f"{path}, line {number}", line
