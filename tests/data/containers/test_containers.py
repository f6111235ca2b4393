"""Every container gives the same rows at flat memory, from any of its starts, or one line."""

import csv
import gzip
import json
import os
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from alignjax.data import containers, records, storage

ROWS = [{"text": f"row {i} \u00e9\U0001f600", "n": i, "tags": ["a", str(i)]} for i in range(700)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def zst(data: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard", reason="zstandard is not installed")
    return zstandard.compress(data[:5000]) + zstandard.compress(data[5000:])


def table() -> pa.Table:
    return pa.Table.from_pylist(ROWS)


def write_arrow(path) -> None:
    with pa.ipc.new_stream(str(path), table().schema) as writer:
        writer.write_table(table(), max_chunksize=100)


WRITERS = {
    "rows.jsonl": lambda path: path.write_bytes(LINES),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES)),
    "rows.jsonl.zst": lambda path: path.write_bytes(zst(LINES)),
    "rows.json": lambda path: path.write_text(json.dumps(ROWS, indent=1)),
    "rows.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS).encode())),
    "lines.json": lambda path: path.write_bytes(LINES),
    "rows.parquet": lambda path: parquet.write_table(table(), path, row_group_size=150),
    "rows.arrow": write_arrow,
}


@pytest.fixture(params=WRITERS)
def part(request, tmp_path):
    path = tmp_path / request.param
    WRITERS[request.param](path)
    (own,) = containers.parts(path)
    return own


def test_every_row_is_read_with_its_number(part):
    assert list(part.rows()) == list(enumerate(ROWS, start=1))


def test_reading_may_begin_at_every_start(part):
    starts = part.starts()
    assert starts[0] == containers.FIRST
    for start in starts:
        assert next(part.rows_from(start)) == (start.row, ROWS[start.row - 1])
    if part.name == "rows.parquet":
        assert [start.row for start in starts] == [1, 151, 301, 451, 601]


def test_lines_have_starts_some_blocks_apart(tmp_path, monkeypatch):
    from alignjax.data.containers import lines

    monkeypatch.setattr(lines, "BLOCK", 3000)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(LINES)
    (part,) = containers.parts(path)
    starts = part.starts()
    assert len(starts) > 5
    ends = [start.row for start in starts[1:]] + [len(ROWS) + 1]
    found = []
    for start, end in zip(starts, ends, strict=True):
        found += [row for number, row in part.rows_from(start) if number < end]
    assert found == ROWS


def test_csv_and_tsv_are_strings(tmp_path):
    for name, delimiter in (("a.csv", ","), ("b.tsv", "\t")):
        with open(tmp_path / name, "w", newline="") as stream:
            writer = csv.writer(stream, delimiter=delimiter)
            writer.writerow(["prompt", "label"])
            writer.writerow(["two\nlines, and a comma", "true"])
            writer.writerow(["x", "0"])
        (part,) = containers.parts(tmp_path / name)
        assert list(part.rows()) == [
            (2, {"prompt": "two\nlines, and a comma", "label": "true"}),
            (4, {"prompt": "x", "label": "0"}),
        ]


def test_text_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path, monkeypatch):
    from alignjax.data.containers import text

    monkeypatch.setattr(text, "PIECE", 100)
    monkeypatch.setattr(text, "LONGEST", 1000)
    whole = "".join(f"line {i} \u00e9\n" + "\n" * (i % 7 == 0) for i in range(200)) + "x" * 3000
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(whole.replace("\n", "\r\n").encode()))
    (part,) = containers.parts(path)
    rows = list(part.rows())
    assert "".join(row["text"] for _, row in rows) == whole
    assert len(rows) > 5
    assert all(row["text"].endswith("\n\n") for _, row in rows[:3])
    number, row = rows[1]
    assert whole.splitlines()[number - 1] == row["text"].splitlines()[0]


def test_arrow_folders_of_datasets(tmp_path):
    datasets = pytest.importorskip("datasets", reason="the library datasets is not installed")
    train, test = datasets.Dataset.from_list(ROWS), datasets.Dataset.from_list(ROWS[:3])
    train.save_to_disk(tmp_path / "one", num_shards=3)
    datasets.DatasetDict(train=train, test=test).save_to_disk(tmp_path / "both")
    parts = containers.parts(tmp_path / "one")
    assert len(parts) == 3
    assert [row for own in parts for _, row in own.rows()] == list(
        datasets.load_from_disk(tmp_path / "one")
    )
    held, named = containers.split_parts(tmp_path / "both", split="eval")
    assert named
    assert [row for own in held for _, row in own.rows()] == ROWS[:3]
    state = tmp_path / "one" / "state.json"
    state.write_text(state.read_text().replace("data-00001", "data-00009"))
    refuse(tmp_path / "one", "list the files of a save_to_disk folder; got 'data-00009")
    state.write_text("{}")
    refuse(tmp_path / "one", "state.json must list the files .* got a file without _data_files")


def test_a_saved_folder_without_its_library(tmp_path):
    """The same folder, written by hand."""
    folder = tmp_path / "saved" / "train"
    folder.mkdir(parents=True)
    write_arrow(folder / "data-00000-of-00001.arrow")
    (folder / "state.json").write_text(
        '{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}'
    )
    (folder.parent / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (part,) = containers.parts(folder.parent)
    assert part.split == "train"
    assert [row for _, row in part.rows()] == ROWS


def refuse(path, message, names="*"):
    def read():
        for own in containers.parts(path, names):
            for _, row in own.rows():
                if isinstance(row, records.DataError):
                    raise row

    with pytest.raises(records.DataError, match=message) as error:
        read()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", [n for n in WRITERS if n not in ("rows.jsonl", "lines.json")])
def test_a_half_file_is_refused(name, tmp_path):
    path = tmp_path / name
    WRITERS[name](path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert str(path) in refuse(path, "data file must be readable to its end")


def test_a_flipped_byte_in_parquet_names_the_row_group(tmp_path):
    path = tmp_path / "rows.parquet"
    parquet.write_table(table(), path, row_group_size=150, use_dictionary=False)
    data = bytearray(path.read_bytes())
    offset = parquet.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    data[offset : offset + 40] = bytes(40)
    path.write_bytes(bytes(data))
    refuse(path, "in row group 3")


def test_mixed_schemas_name_file_column_and_types(tmp_path):
    parquet.write_table(pa.table({"text": ["a"], "n": [1]}), tmp_path / "0.parquet")
    parquet.write_table(pa.table({"text": ["a"], "n": ["1"]}), tmp_path / "1.parquet")
    message = refuse(tmp_path, "column n must be int64 as in 0.parquet; got string")
    assert "1.parquet" in message
    parquet.write_table(pa.table({"text": ["a"]}), tmp_path / "1.parquet")
    refuse(tmp_path, "column n must be int64 as in 0.parquet; got no such column")


def test_bytes_that_are_no_utf8_name_the_column_and_row(tmp_path):
    parquet.write_table(pa.table({"text": [b"fine", b"\xff"]}), tmp_path / "0.parquet")
    refuse(tmp_path, r"text must be UTF-8; got an invalid byte at offset 0 \(.*0.parquet, row 2\)")


BROKEN = {
    "cells.csv": (b"a,b\n1,2\n1,2,3\n", "row must have 2 cells as the header has; got 3 .*line 3"),
    "header.csv": (b"a,a\n1,2\n", "header must name every column once; got a, a"),
    "quote.csv": (b'a,b\n"x" y,2\n', "invalid|expected after"),
    "latin.csv": (b"a,b\n\xe9,2\n", "no UTF-8"),
    "latin.txt": (b"one\n\xe9\xe9\n", r"line must be UTF-8; got an invalid byte .*line 2"),
    "elements.json": (
        b'[{"a": 1}, 3]',
        r"element must be an object; got a JSON num.*element 2",
    ),
    "comma.json": (b'[{"a": 1} {"a": 2}]', "no comma after element 1"),
    "open.json": (b'[{"a": 1},', "readable to its end"),
    "nan.json": (b'[{"a": NaN}]', "the number NaN, which JSON does not have"),
    "twice.json": (b'[{"a": 1, "a": 2}]', "names must be unique; got 'a' twice"),
    "deep.json": (b"[" * 100_000, "nested too deeply|maximum recursion|readable to its end"),
    "false.parquet": (b"PAR1 nonsense", "no Parquet"),
    "false.arrow": (b"nonsense", "readable to its end"),
    "false.jsonl.zst": (b"\x28\xb5\x2f\xfdnonsense", "readable to its end|zstandard"),
    "empty.parquet": (b"", "no Parquet"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_file_is_refused_in_one_line(name, tmp_path):
    data, message = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    assert name in refuse(tmp_path / name, message)


def test_names_of_containers_and_mixtures(tmp_path):
    (tmp_path / "README.txt").write_text("about")
    (tmp_path / "rows.jsonl").write_bytes(LINES)
    assert [own.name for own in containers.parts(tmp_path)] == ["rows.jsonl"]
    (tmp_path / "rows.jsonl").rename(tmp_path / "rows.json")
    refuse(tmp_path, "files of one container; got .json and .txt")
    assert [own.name for own in containers.parts(tmp_path, "*.json")] == ["rows.json"]
    refuse(tmp_path, "data folder must hold files", names="*.csv")


def test_memory_is_flat(tmp_path):
    """Ten times the rows need no more memory, of every container that is read as a stream."""
    peaks = {}
    for count in (20_000, 60_000):
        rows = [{"text": "x" * 100, "n": i} for i in range(count)]
        folder = tmp_path / str(count)
        folder.mkdir()
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode(), 1))
        (folder / "b.json").write_text(json.dumps(rows))
        with open(folder / "c.csv", "w", newline="") as stream:
            csv.writer(stream).writerows([["text", "n"], *([r["text"], r["n"]] for r in rows)])
        for name in ("a.jsonl.gz", "b.json", "c.csv"):
            (own,) = containers.parts(folder / name)
            tracemalloc.start()
            assert sum(1 for _ in own.rows()) == count
            peaks.setdefault(name, []).append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    for name, (few, many) in peaks.items():
        assert many < few * 1.1 + 50_000, (name, few, many)


@pytest.fixture
def bucket():
    import fsspec

    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_a_bucket_is_read_like_a_folder(bucket):
    bucket.pipe("/data/x.train.jsonl", LINES)
    bucket.pipe("/data/x.test.jsonl.gz", gzip.compress(LINES))
    path = "memory" + "://data"
    parts, named = containers.split_parts(path, split="eval")
    assert named
    assert [row for own in parts for _, row in own.rows()] == ROWS
    before = storage.fingerprint(parts[0].files)
    assert before == storage.fingerprint(parts[0].files)
    bucket.pipe("/data/x.test.jsonl.gz", gzip.compress(LINES[:1000]))
    assert storage.fingerprint(parts[0].files) != before
    refuse("memory" + "://nowhere", "data path must exist")


def test_parquet_in_a_bucket(bucket, tmp_path):
    parquet.write_table(table(), tmp_path / "a.parquet", row_group_size=300)
    bucket.pipe("/data/a.parquet", (tmp_path / "a.parquet").read_bytes())
    (part,) = containers.parts("memory" + "://data")
    assert [row for _, row in part.rows_from(part.starts()[2])] == ROWS[600:]


def test_a_bucket_without_permission_or_package_is_one_line(bucket, monkeypatch):
    bucket.pipe("/data/a.jsonl", LINES)

    def refused(*args, **kwargs):
        raise PermissionError("Forbidden: anonymous caller\nhas no storage.objects.list access")

    monkeypatch.setattr(type(bucket), "ls", refused)
    monkeypatch.setattr(type(bucket), "isdir", lambda self, path: True)
    message = refuse("memory" + "://data", "be readable; got PermissionError, Forbidden")
    assert "your permission" in message
    monkeypatch.setattr(type(bucket), "isdir", refused)
    refuse("memory" + "://data", "PermissionError")
    refuse("abfs" + "://data", "no package for abfs|be readable")
    refuse("nonsense" + "://data", "be readable; got ValueError")


def test_files_without_permission_are_one_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    refuse(path, "data path must be readable; got PermissionError")


def test_values_of_binary_containers_are_as_json_holds_them():
    given = {"a": b"x", "b": np.array([b"y", b"z"], object), "c": {"d": np.int32(3)}, "e": (1, 2)}
    assert records.decoded(given) == {"a": "x", "b": ["y", "z"], "c": {"d": 3}, "e": [1, 2]}


@pytest.mark.parametrize("kind", ["json", "parquet", "csv"])
def test_the_library_datasets_reads_the_same_rows(kind, tmp_path):
    datasets = pytest.importorskip("datasets", reason="the library datasets is not installed")
    rows = [{"prompt": f"say {i},\n\u00e9", "label": f"l{i}"} for i in range(50)]
    path = tmp_path / f"rows.{'jsonl' if kind == 'json' else kind}"
    source = datasets.Dataset.from_list(rows)
    getattr(source, f"to_{kind}")(path)
    theirs = datasets.load_dataset(kind, data_files=str(path), cache_dir=str(tmp_path / "c"))
    (own,) = containers.parts(path)
    assert [row for _, row in own.rows()] == list(theirs["train"])
