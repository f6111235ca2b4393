"""What is beyond a limit is refused in one line, before anything of its size is held."""

import os
import resource
import socket

import numpy as np
import pytest

from alignjax.core import untrusted


def refused(call, *rules):
    with pytest.raises(untrusted.Refused) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 1000
    for rule in rules:
        assert rule in message
    return message


def test_a_file_is_a_regular_one(tmp_path):
    fifo = tmp_path / "config.json"
    os.mkfifo(fifo)  # opening it would wait for ever
    for read in (untrusted.opened, untrusted.check_regular, untrusted.digest):
        refused(lambda read=read: read(fifo), "config.json must be a regular file; got a FIFO")
    refused(lambda: untrusted.read_json("/dev/zero", 10), "zero must be a regular file", "a device")
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(tmp_path / "s"))
        refused(lambda: untrusted.read_bytes(tmp_path / "s", 10), "got a socket")
    with pytest.raises(IsADirectoryError):
        untrusted.read_bytes(tmp_path, 10)
    with pytest.raises(FileNotFoundError):
        untrusted.read_bytes(tmp_path / "none", 10)


def test_size_is_asked_before_anything_is_read(tmp_path):
    file = tmp_path / "rows.jsonl"
    with file.open("wb") as out:
        out.truncate(2**40)  # sparse: a terabyte of zeros
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(lambda: untrusted.read_text(file, 2**20), f"at most {2**20} bytes; got {2**40}")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024  # KiB
    file.write_bytes(b"a" * 11)
    refused(lambda: untrusted.read_bytes(file, 10), "at most 10 bytes; got 11")
    assert untrusted.read_bytes(file, 11) == b"a" * 11
    # The system says that the files of /proc are empty.
    refused(lambda: untrusted.read_bytes("/proc/self/status", 10), "got 11")


def test_text_is_utf_8_and_lines_end_at_newlines(tmp_path):
    file = tmp_path / "text"
    file.write_bytes(b"ab\xff")
    refused(
        lambda: untrusted.read_text(file, 99), "text must be UTF-8; got an invalid byte at offset 2"
    )
    file.write_bytes("a\u2028b\n\nc\n".encode())
    assert list(untrusted.read_lines(file, 99)) == [(1, "a\u2028b"), (2, ""), (3, "c")]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (b"[" * 100_000, "at most 100 levels"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "at most 100 levels"),
        (b"[" * 101 + b"]" * 101, "at most 100 levels"),
        (b"[" + b"{}," * 3_000_000 + b"1]", "at most 5000000"),
        (b"1" * 41, "at most 40 digits; got 41"),
        (b"1" * 10_000, "at most 40 digits"),
        (b"{", "must be JSON in UTF-8; Expecting property name"),
        (b"\xff", "must be JSON in UTF-8"),
        (b"", "must be JSON in UTF-8"),
    ],
    ids=[
        "brackets",
        "objects",
        "just too deep",
        "values",
        "digits",
        "many",
        "cut",
        "bytes",
        "none",
    ],
)
def test_json_is_bounded(text, rule):
    refused(lambda: untrusted.parse_json(text, "config.json (here)"), "config.json (here)", rule)


def test_json_that_is_within_bounds_is_what_it_was():
    deep = 7
    for _ in range(100):
        deep = [deep]
    assert untrusted.parse_json(str(deep), "") == deep
    assert untrusted.parse_json(b'\xef\xbb\xbf{"a": [1, 2.5, null], "a": NaN}', "")["a"] != 0
    assert untrusted.parse_json(str(10**30), "") == 10**30
    for text, rule in (('{"a": 1, "a": 2}', "unique; got 'a' twice"), ("[NaN]", "the number NaN")):
        refused(lambda text=text: untrusted.parse_json(text, "w", strict=True), rule)


def test_an_object_is_an_object(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("[1]")
    refused(lambda: untrusted.read_object(file, 99), "a.json must hold a JSON object; got list")
    file.write_text('{"a": 1}')
    assert untrusted.read_object(file, 99) == {"a": 1}


def test_arrays_are_of_numbers_and_hold_what_they_claim(tmp_path):
    file = tmp_path / "pairs.npz"
    wanted = {"a": np.arange(6).reshape(2, 3), "b": np.zeros((0, 4), np.float32)}
    np.savez(file, **wanted)
    found = untrusted.read_arrays(file, 10_000)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)
    whole = file.read_bytes()
    refused(lambda: untrusted.read_arrays(file, 100), "at most 100 bytes")
    np.savez_compressed(file, a=np.zeros(1000))
    refused(lambda: untrusted.read_arrays(file, 10_000), "must be a .npz file of numbers")
    np.savez(file, a=np.array([{}], object))
    refused(lambda: untrusted.read_arrays(file, 10_000), "must be a .npz file of numbers")
    file.write_bytes(whole.replace(b"(2, 3)", b"(2**9)"))
    refused(lambda: untrusted.read_arrays(file, 10_000), "must be a .npz file of numbers")
    file.write_bytes(whole.replace(b"(2, 3), }      ", b"(200000000000,)", 1))
    refused(lambda: untrusted.read_arrays(file, 10_000), "must be a .npz file of numbers")
    file.write_bytes(whole[: len(whole) // 2])
    refused(lambda: untrusted.read_arrays(file, 10_000), "must be a .npz file of numbers")
