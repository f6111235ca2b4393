"""Files of data on a local disk or in a bucket, opened and listed under one set of rules.

A path with a scheme (gs, s3, memory, ...) goes through fsspec, all others through the
operating system. Every failure is one line.
"""

import fnmatch
import gzip
import hashlib
import io
import os
import pathlib
import typing
import zlib
from collections.abc import Callable, Iterable

from alignjax.core import retry, untrusted
from alignjax.data import records

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"  # first bytes of the two compressions
EXTRAS = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "az": "adlfs", "abfs": "adlfs"}
UNREADABLE = (EOFError, OSError, zlib.error)  # what a cut or damaged stream raises


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path names a bucket or another file system."""
    return "://" in str(path)


def join(folder: str, name: str) -> str:
    """The path of a name in a folder."""
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else str(pathlib.Path(folder, name))


def base(path: str) -> str:
    """The last part of a path."""
    return path.rstrip("/").rpartition("/")[2]


def file_system(path: str) -> tuple[typing.Any, str]:
    """(file system, path there) of a remote path.

    Raises:
      DataError: its package is not installed, or the scheme is unknown.
    """
    import fsspec

    scheme = path.partition("://")[0]
    try:
        return fsspec.core.url_to_fs(path)
    except ImportError:
        raise failed(
            path, f"no package for {scheme}://", f"pip install {EXTRAS.get(scheme, scheme)}."
        ) from None
    except Exception as error:  # credentials are looked up by the package of the bucket
        raise failed(path, condensed(error)) from None


def condensed(error: BaseException) -> str:
    """An error of a library in a few words."""
    detail = getattr(error, "strerror", None) or " ".join(str(error).split())[:120]
    return f"{type(error).__name__}{f', {detail}' if detail else ''}"


def failed(path: str, got: str, advice: str = "") -> records.DataError:
    """The error of a path that cannot be read."""
    return records.problem(
        "data path", "be readable", got, file=path, reason="unreadable",
        advice=advice or "Check the name, and your permission to read it.",
    )  # fmt: skip


def is_folder(path: str) -> bool:
    """Whether a folder (of a bucket: a prefix) is there."""
    if not is_remote(path):
        return os.path.isdir(path)
    system, inner = file_system(path)
    try:
        return bool(retry.again(lambda: system.isdir(inner)))
    except Exception as error:
        raise failed(path, condensed(error)) from None


def exists(path: str) -> bool:
    """Whether a file or folder is there.

    Raises:
      DataError: the bucket does not say, for lack of permission or of a network.
    """
    if not is_remote(path):
        return os.path.exists(path)
    system, inner = file_system(path)
    try:
        retry.again(lambda: system.info(inner))
    except FileNotFoundError:
        return False
    except Exception as error:
        raise failed(path, condensed(error)) from None
    return True


def listed(folder: str, names: str = "*") -> list[str]:
    """Paths directly in a folder whose names match, sorted; hidden ones are left out."""
    if is_remote(folder):
        system, inner = file_system(folder)
        try:
            named = retry.again(lambda: system.ls(inner, detail=False))
            entries = [base(str(path)) for path in named]
        except Exception as error:
            raise failed(folder, condensed(error)) from None
    else:
        entries = os.listdir(folder)
    found = [n for n in entries if n and not n.startswith(".") and fnmatch.fnmatch(n, names)]
    return [join(folder, name) for name in sorted(found)]


def opened(path: str) -> typing.BinaryIO:
    """The file, open to be read and sought in.

    Raises:
      DataError: it is not there, or not to be read.
    """
    try:
        if not is_remote(path):
            return untrusted.opened(path)
        system, inner = file_system(path)
        raw = _Remote(lambda: system.open(inner, "rb"), path)
        return typing.cast(typing.BinaryIO, io.BufferedReader(raw, 1 << 20))
    except records.DataError:
        raise
    except Exception as error:  # libraries of buckets raise errors of their own
        raise failed(path, condensed(error)) from None


class _Remote(io.RawIOBase):
    """A remote file, opened again at its place where a read fails in passing."""

    def __init__(self, make: Callable[[], typing.Any], name: str):
        self._make, self._place, self.name = make, 0, name
        self._file: typing.Any = retry.again(make)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset, whence = self._place + offset, io.SEEK_SET
        self._place = int(self._opened().seek(offset, whence))
        return self._place

    def tell(self) -> int:
        return self._place

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()

    def readinto(self, buffer: typing.Any) -> int:
        try:
            block = retry.again(lambda: self._block(len(buffer)))
        except OSError:
            raise
        except Exception as error:  # of a library: whoever reads a file expects an OSError
            raise OSError(condensed(error)) from error
        buffer[: len(block)] = block
        self._place += len(block)
        return len(block)

    def _block(self, size: int) -> bytes:
        file = self._opened()
        try:
            file.seek(self._place)  # wherever a read that failed left it
            return bytes(file.read(size))
        except Exception:
            self._file = None
            raise

    def _opened(self) -> typing.Any:
        if self._file is None:
            self._file = retry.again(self._make)
        return self._file


def plain(path: str) -> typing.BinaryIO:
    """The file's bytes, decompressed where it begins as gzip or zstd does."""
    stream = opened(path)
    head = stream.read(4)
    stream.seek(0)
    if head[:2] == GZIP:
        return typing.cast(typing.BinaryIO, gzip.GzipFile(fileobj=stream, mode="rb"))
    if head == ZSTD:
        return _zstd(stream)
    return stream


def is_compressed(path: str) -> bool:
    """Whether it begins as gzip or zstd does."""
    with opened(path) as stream:
        head = stream.read(4)
    return head[:2] == GZIP or head == ZSTD


class _Zstd(io.RawIOBase):
    """The decompressed bytes of a zstd stream of any number of frames; a cut one is an EOFError."""

    def __init__(self, stream: typing.BinaryIO):
        import zstandard

        self._stream, self._failure = stream, zstandard.ZstdError
        self._new = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj
        self._frame: typing.Any = None
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._stream.close()
        super().close()

    def readinto(self, buffer: typing.Any) -> int:
        while not self._ready:
            block = self._rest or self._stream.read(1 << 17)
            self._rest = b""
            if not block:
                if self._frame is not None:
                    raise EOFError("cut")
                return 0
            self._frame = self._frame or self._new()
            try:
                self._ready = memoryview(self._frame.decompress(block))
            except self._failure as error:
                raise OSError(str(error)) from None
            if self._frame.eof:
                self._rest, self._frame = self._frame.unused_data, None
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    _rest = b""


def _zstd(stream: typing.BinaryIO) -> typing.BinaryIO:
    try:
        return typing.cast(typing.BinaryIO, io.BufferedReader(_Zstd(stream), 1 << 20))
    except ImportError:
        raise failed(
            str(getattr(stream, "name", "file")), "zstd without its package",
            "pip install zstandard.",
        ) from None  # fmt: skip


def fingerprint(
    files: Iterable[str | os.PathLike[str]], content: Callable[[str], str] | None = None
) -> str:
    """sha256 in hex over names and contents, in order; in a bucket over its own sums of contents.

    content: file -> its digest, where these are known from before.
    """
    total, content = hashlib.sha256(), content or digest_of
    for file in map(str, files):
        total.update(f"{base(file)}\0{content(file)}\n".encode())
    return total.hexdigest()


def digest_of(file: str) -> str:
    """sha256 in hex of a file's content; of an object in a bucket its ETag, generation, size."""
    if not is_remote(file):
        with untrusted.opened(file) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    system, inner = file_system(file)
    try:
        return str(retry.again(lambda: system.ukey(inner)))
    except Exception as error:
        raise failed(file, condensed(error)) from None


def check_links(folder: str, files: Iterable[str]) -> None:
    """Raises DataError where a file of a local folder is a link that leaves it."""
    if is_remote(folder):
        return
    root = pathlib.Path(folder).resolve()
    for file in files:
        if not pathlib.Path(file).resolve().is_relative_to(root):
            raise records.problem(
                "data file", "stay inside its folder", "a link that leaves it", file=file,
                reason="link", advice="Copy the file into the folder.",
            )  # fmt: skip
