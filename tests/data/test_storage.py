"""A bucket that fails in passing is asked again; one that always fails ends in one line."""

import fsspec
import pytest
from fsspec.implementations import memory

from alignjax.core import retry
from alignjax.data import records, storage

TEXT = "".join(f"line {number} of a file\n" for number in range(200_000)).encode()


class FlakyFileSystem(memory.MemoryFileSystem):
    """Objects in memory, of which every operation fails so many times in a row."""

    protocol = "flaky"
    store = {}  # noqa: RUF012
    failures = 0
    left = {}  # noqa: RUF012
    calls = 0

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("flaky://", "memory://"))

    @classmethod
    def _fail(cls, name):
        cls.calls += 1
        left = cls.left.setdefault(name, cls.failures)
        if left:
            cls.left[name] = left - 1
            raise ConnectionResetError("reset by the other side")
        del cls.left[name]

    def info(self, path, **options):
        self._fail("info")
        return super().info(path, **options)

    def isdir(self, path):
        self._fail("isdir")
        return super().isdir(path)

    def ls(self, path, detail=True, **options):
        self._fail("ls")
        return super().ls(path, detail=detail, **options)

    def ukey(self, path):
        self._fail("ukey")
        return "etag"

    def _open(self, path, mode="rb", **options):
        self._fail("_open")
        return _Flaky(super()._open(path, mode, **options), self)


class _Flaky:
    """An open object whose reads fail too, and then stand wherever they stood."""

    def __init__(self, file, system):
        self._file, self._system = file, system

    def read(self, size=-1):
        try:
            self._system._fail("read")
        except OSError:
            self._file.read(7)
            raise
        return self._file.read(size)

    def __getattr__(self, name):
        return getattr(self._file, name)


@pytest.fixture
def bucket(monkeypatch):
    monkeypatch.setattr(retry, "WAIT", 0.0)
    fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
    memory.MemoryFileSystem.store["/folder/rows.txt"] = memory.MemoryFile(
        None, "/folder/rows.txt", TEXT
    )
    monkeypatch.setattr(FlakyFileSystem, "store", memory.MemoryFileSystem.store)
    yield FlakyFileSystem
    memory.MemoryFileSystem.store.clear()


def failing(bucket, times):
    bucket.failures, bucket.left = times, {}
    bucket.calls = 0


OPERATIONS = {
    "exists": lambda: storage.exists("flaky://folder/rows.txt"),
    "listed": lambda: storage.listed("flaky://folder") == ["flaky://folder/rows.txt"],
    "digest": lambda: storage.digest_of("flaky://folder/rows.txt") == "etag",
    "content": lambda: storage.plain("flaky://folder/rows.txt").read() == TEXT,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_bucket_that_fails_twice_is_read(bucket, name):
    failing(bucket, 2)
    assert OPERATIONS[name]()
    assert bucket.calls >= 3


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_bucket_that_always_fails_ends_in_one_line(bucket, name):
    failing(bucket, 10**6)
    with pytest.raises(records.DataError, match=r"must be readable.*ConnectionResetError") as got:
        OPERATIONS[name]()
    assert "\n" not in str(got.value)
    assert bucket.calls == retry.TRIES


def test_reads_that_fail_go_on_where_they_stood(bucket):
    failing(bucket, 0)
    with storage.opened("flaky://folder/rows.txt") as stream:
        first = stream.read(10)
        bucket.left["read"] = 2
        assert first + stream.read() == TEXT
        stream.seek(4_000_000)
        bucket.left["read"] = 2
        assert stream.read(2_000_000) == TEXT[4_000_000:6_000_000]
        stream.seek(0)
        bucket.left["read"] = 10**6
        with pytest.raises(OSError, match="reset by the other side"):
            stream.read(3_000_000)


def test_what_no_waiting_mends_is_not_asked_twice(bucket):
    failing(bucket, 0)
    assert not storage.exists("flaky://folder/other.txt")
    assert bucket.calls == 1


def test_waits_grow(monkeypatch):
    waits = []
    monkeypatch.setattr(retry.time, "sleep", waits.append)

    def fails():
        raise TimeoutError("late")

    with pytest.raises(TimeoutError, match="late"):
        retry.again(fails)
    assert waits == [0.5, 1.0]
