"""The one reader of files that others may have written: models, data, runs, options.

What a file is, and how large, is known before a byte of it is held; how deep and how many values
its JSON has, before or while it is parsed. Every refusal is one line with the file, the limit and
what was given. A missing file, or one without permission, is the system's own `OSError`.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import pathlib
import stat
import typing
import zipfile
from collections.abc import Iterator

import numpy as np

DEPTH = 100  # levels of JSON; what models and runs write has at most 20
VALUES = 5_000_000  # values and names of a JSON text; the largest tokenizers have two millions
DIGITS = 40  # of a whole number; tokenizers write 10^30 for "no limit"
OPTION = 16 * 2**20  # bytes of a file that an option names: settings, principles, tokens
CONFIG = 32 * 2**20  # of a configuration in a model's folder
RECORD = 256 * 2**20  # of a record that a run or evaluation wrote
ROWS = 4 * 2**30  # of rows that are read as a whole, such as metrics

File = str | os.PathLike[str]
_KINDS = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Refused(ValueError):
    """What was given is no file of the expected kind, or beyond a limit."""


def check_regular(path: File) -> None:
    """Raises Refused for a FIFO, socket or device, and IsADirectoryError for a folder.

    Nothing is opened: opening a FIFO would wait for its other end.
    """
    _check(os.stat(path).st_mode, path)


def opened(path: File) -> io.BufferedReader:
    """A regular file, open to be read.

    Raises:
      Refused: a FIFO, socket or device.
      OSError: it is missing, a folder, or not to be read.
    """
    check_regular(path)
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check(os.fstat(number).st_mode, path)  # which another may have taken the place of
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def read_bytes(path: File, limit: int) -> bytes:
    """The content of a regular file of at most so many bytes, whose size is asked first.

    Raises:
      Refused: a FIFO, socket or device, or more bytes.
      OSError: it is missing, a folder, or not to be read.
    """
    if "://" in os.fspath(path):
        return _remote(path, limit)
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(limit + 1) if size <= limit else b""
        size = max(size, len(content))
    if size > limit:
        raise _too_large(path, limit, size)
    return content


def take(stream: typing.Any, limit: int, where: File) -> bytes:
    """The rest of an open stream, of at most so many bytes.

    Raises:
      Refused: it has more.
    """
    content: bytes = stream.read(limit + 1)
    if len(content) > limit:
        raise _too_large(where, limit, len(content))
    return content


def read_text(path: File, limit: int) -> str:
    """As `read_bytes`, as text.

    Raises:
      Refused: also for bytes that are no UTF-8.
      OSError: as of `read_bytes`.
    """
    try:
        return read_bytes(path, limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(
            f"{_name(path)} must be UTF-8; got an invalid byte at offset {error.start} ({path})."
        ) from None


def read_lines(path: File, limit: int) -> Iterator[tuple[int, str]]:
    """(number, line) of a text's lines, which newlines alone end, without a last empty one."""
    lines = read_text(path, limit).split("\n")
    yield from enumerate(lines if lines[-1] else lines[:-1], 1)


def read_json(path: File, limit: int) -> typing.Any:
    """The JSON value in a file.

    Raises:
      Refused: as of `read_bytes` and `parse_json`.
      OSError: as of `read_bytes`.
    """
    return parse_json(read_bytes(path, limit), f"{_name(path)} ({path})")


def read_object(path: File, limit: int) -> dict[str, typing.Any]:
    """The JSON object in a file; errors as of `read_json`, and for another value."""
    value = read_json(path, limit)
    if not isinstance(value, dict):
        raise Refused(
            f"{_name(path)} must hold a JSON object; got {type(value).__name__} ({path})."
        )
    return value


@contextlib.contextmanager
def formed(what: str, where: object) -> Iterator[None]:
    """Inside, a value of another type or place than a format has it is refused in one line.

    For formats with so many parts that each would need a check of its own before it is used.

    Raises:
      Refused: what is read inside met a value that it could not use.
    """
    try:
        yield
    except FORM as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise Refused(
            f"{what} must have the form of its format; got {reason} ({where}). Copy it again."
        ) from None


FORM = (
    AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, UnicodeError,
)  # fmt: skip


def digest(path: File) -> str:
    """sha256 in hex of a regular file's content; errors as of `opened`."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_arrays(path: File, limit: int) -> dict[str, np.ndarray]:
    """The arrays of a .npz file as `np.savez` writes them: packed in no way, numbers alone.

    Raises:
      Refused: it is none, has other entries, or more bytes than `limit`.
      OSError: as of `read_bytes`.
    """
    content = io.BytesIO(read_bytes(path, limit))
    try:
        with zipfile.ZipFile(content) as whole:
            for entry in whole.infolist():
                _check_array(whole, entry)
        content.seek(0)
        with np.load(content, allow_pickle=False) as arrays:
            return dict(arrays)
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        rule = f"{_name(path)} must be a .npz file of numbers"
        raise Refused(f"{rule}; got {reason} ({path}).") from None


def _check_array(whole: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    """Raises ValueError for an entry that claims more than it holds, before it is allocated."""
    with whole.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        headers = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
        shape, _, dtype = headers[version != (1, 0)](stream)
    size = math.prod(max(n, 1) for n in shape) * dtype.itemsize
    if entry.compress_type != zipfile.ZIP_STORED or dtype.hasobject or size > entry.file_size + 64:
        raise ValueError(f"{entry.filename!r:.80} of {dtype} {list(shape)!r:.80}")


def parse_json(text: bytes | str, where: str, *, strict: bool = False) -> typing.Any:
    """The value of a JSON text of bounded depth, number of values, and digits of whole numbers.

    Args:
      where: what the text is and where it stands, for messages.
      strict: names must be unique in their object, and NaN and Infinity are none.

    Raises:
      Refused: it is no JSON in UTF-8, or beyond a limit.
    """
    try:
        return decode(text if isinstance(text, str) else text.decode("utf-8-sig"), strict=strict)
    except RecursionError:
        raise Refused(
            f"{where} must be JSON of at most {DEPTH} levels; got it nested too deeply."
        ) from None
    except ValueError as error:
        reason = " ".join(str(error).split())[:300]
        raise Refused(f"{where} must be JSON in UTF-8; {reason}.") from None


def decode(text: str, *, strict: bool = False) -> typing.Any:
    """As `parse_json`, for callers with messages of their own.

    Raises:
      RecursionError: it is nested too deeply.
      ValueError: it is no JSON (`json.JSONDecodeError`, with its place), or beyond a limit.
    """
    marks = sum(text.count(mark) for mark in "[{,:")
    if marks > VALUES:  # marks inside of texts count too: they are few in what is real
        raise ValueError(f"values must be at most {VALUES}; got about {marks}")
    value = (_STRICT if strict else _LENIENT).decode(text)
    _check_depth(value, text, 0, len(text))
    return value


def decode_at(text: str, at: int) -> tuple[typing.Any, int]:
    """(value, its end) of the strict JSON that begins at a place; errors as of `decode`."""
    value, end = _STRICT.raw_decode(text, at)
    _check_depth(value, text, at, end)
    return value, end


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError(f"a whole number must have at most {DIGITS} digits; got {len(digits)}")
    return int(digits)


def _no_constant(name: str) -> typing.NoReturn:
    raise ValueError(f"the number {name}, which JSON does not have")


def _unique(pairs: list[tuple[str, typing.Any]]) -> dict[str, typing.Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"names must be unique; got {twice!r:.200} twice")
    return values


_LENIENT = json.JSONDecoder(parse_int=_whole)
_STRICT = json.JSONDecoder(parse_int=_whole, parse_constant=_no_constant, object_pairs_hook=_unique)


def _check_depth(value: typing.Any, text: str, start: int, stop: int) -> None:
    """Raises RecursionError for over `DEPTH` levels, which are looked through one at a time."""
    if text.count("[", start, stop) + text.count("{", start, stop) <= DEPTH:
        return
    level = [value]
    for _ in range(DEPTH):
        level = [
            inner
            for own in level
            for inner in (own.values() if isinstance(own, dict) else own)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise RecursionError


def _name(path: File) -> str:
    return pathlib.PurePath(path).name


def _check(mode: int, path: File) -> None:
    for is_kind, name in _KINDS:
        if is_kind(mode):
            raise Refused(f"{_name(path)} must be a regular file; got {name} ({path}).")
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(21, "Is a directory", os.fspath(path))


def _too_large(path: File, limit: int, size: int) -> Refused:
    return Refused(
        f"{_name(path)} must have at most {limit} bytes; got {size} ({path}). Check that it is "
        "the file you mean."
    )


def _remote(path: typing.Any, limit: int) -> bytes:
    """The content of an object in a bucket; `path` opens itself."""
    size = path.stat().length
    if size > limit:
        raise _too_large(path, limit, size)
    with path.open("rb") as file:
        return take(file, limit, path)
