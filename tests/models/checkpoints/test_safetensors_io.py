"""Safetensors read by slice, written whole or not at all, and refused where forged."""

import json
import os
import pathlib
import struct

import ml_dtypes
import numpy as np
import pytest

from alignjax.models.checkpoints import safetensors_format, safetensors_io

KINDS = list(safetensors_format.DTYPES.items())


def entries(tensors):
    return [(name, x.shape, x.dtype, lambda x=x: x) for name, x in tensors.items()]


def write_raw(file: pathlib.Path, header, data: bytes = b"", length: int | None = None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def same(a, b):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert a.tobytes() == b.tobytes()


@pytest.fixture
def mixed():
    rng = np.random.default_rng(1)
    return {
        "a": rng.normal(size=(5, 7)).astype(np.float32),
        "b": rng.normal(size=(3, 4, 5)).astype(ml_dtypes.bfloat16),
        "scalar": np.array(0.25, np.float16),
        "none": np.zeros((0, 3), np.float32),
        "flags": rng.integers(0, 2, 9).astype(bool),
        "ids": rng.integers(-9, 9, (2, 2)),
    }


class TestRoundTrip:
    def test_ours_to_ours(self, tmp_path, mixed):
        safetensors_io.write_folder(tmp_path / "out", entries(mixed))
        folder = safetensors_io.open_folder(tmp_path / "out")
        assert folder.metadata == {"format": "pt"}
        assert folder.tensors.keys() == mixed.keys()
        for name, x in mixed.items():
            same(folder.read(name), x)

    @pytest.mark.parametrize(("name", "dtype"), KINDS, ids=[n for n, _ in KINDS])
    def test_every_dtype(self, tmp_path, name, dtype):
        x = np.arange(24, dtype=np.uint8).repeat(dtype.itemsize).reshape(4, -1) % 2
        x = x.astype(np.uint8).view(dtype)
        safetensors_io.write_folder(tmp_path / "out", [("x", x.shape, dtype, lambda: x)])
        folder = safetensors_io.open_folder(tmp_path / "out")
        assert folder.tensors["x"].dtype == dtype
        same(folder.read("x"), x)
        same(folder.read("x", (slice(1, 3),)), x[1:3])

    def test_the_official_reader_reads_ours(self, tmp_path, mixed):
        official = pytest.importorskip("safetensors.numpy")
        safetensors_io.write_folder(tmp_path / "out", entries(mixed))
        read = official.load_file(tmp_path / "out" / "model.safetensors")
        assert read.keys() == mixed.keys()
        for name, x in mixed.items():
            same(np.asarray(read[name]), x)

    def test_we_read_the_official_writer(self, tmp_path, mixed):
        official = pytest.importorskip("safetensors.numpy")
        official.save_file(mixed, tmp_path / "model.safetensors", {"who": "them"})
        folder = safetensors_io.open_folder(tmp_path)
        assert folder.metadata == {"who": "them"}
        for name, x in mixed.items():
            same(folder.read(name), x)

    def test_several_files(self, tmp_path, mixed):
        safetensors_io.write_folder(tmp_path / "out", entries(mixed), max_file_bytes=200)
        names = sorted(p.name for p in (tmp_path / "out").iterdir())
        index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
        assert len(names) == 3
        assert set(index["weight_map"].values()) | {"model.safetensors.index.json"} == set(names)
        assert index["metadata"]["total_size"] == sum(x.nbytes for x in mixed.values())
        folder = safetensors_io.open_folder(tmp_path / "out")
        for name, x in mixed.items():
            same(folder.read(name), x)

    def test_header_that_does_not_align_the_data(self, tmp_path):
        x = np.arange(6, dtype=np.float32).reshape(2, 3)
        text = json.dumps({"x": entry(shape=(2, 3), offsets=(0, 24))}).encode()
        text += b" " * (3 - len(text) % 4)
        write_raw(tmp_path / "model.safetensors", text, x.tobytes())
        assert (8 + len(text)) % 4 == 3
        same(safetensors_io.open_folder(tmp_path).read("x", (slice(None), slice(1, 3))), x[:, 1:])

    def test_one_file_and_another_stem(self, tmp_path, mixed):
        safetensors_io.write_folder(tmp_path / "o", entries(mixed), stem="adapter_model")
        same(safetensors_io.open_folder(tmp_path / "o", "adapter_model").read("a"), mixed["a"])
        file = tmp_path / "o" / "adapter_model.safetensors"
        same(safetensors_io.open_folder(file).read("a"), mixed["a"])


INDEXES = [
    (),
    (slice(1, 3),),
    (slice(None), slice(2, 4)),
    (2,),
    (-1, slice(None), 3),
    (slice(0, 0),),
    (slice(5, 2),),
    (1, 2, 3),
    (slice(-2, None), 1, slice(0, 99)),
]


class TestSlices:
    @pytest.mark.parametrize("window", [1, 64, 2**24])
    @pytest.mark.parametrize("index", INDEXES, ids=str)
    def test_a_slice_is_numpys(self, tmp_path, monkeypatch, mixed, index, window):
        monkeypatch.setattr(safetensors_io, "WINDOW", window)
        safetensors_io.write_folder(tmp_path / "o", entries(mixed))
        same(safetensors_io.open_folder(tmp_path / "o").read("b", index), mixed["b"][index].copy())

    @pytest.mark.parametrize("window", [1, 2**24])
    def test_under_another_shape(self, tmp_path, monkeypatch, mixed, window):
        monkeypatch.setattr(safetensors_io, "WINDOW", window)
        safetensors_io.write_folder(tmp_path / "o", entries(mixed))
        folder = safetensors_io.open_folder(tmp_path / "o")
        index = (slice(1, 3), slice(None), 1, slice(0, 2))
        same(folder.read("b", index, (3, 2, 2, 5)), mixed["b"].reshape(3, 2, 2, 5)[index].copy())
        with pytest.raises(ValueError, match="as many elements"):
            folder.read("b", (), (3, 21))

    def test_only_the_slice_is_mapped(self, tmp_path, monkeypatch):
        """Rows that are not asked for may be gone from the disk."""
        x = np.arange(4096, dtype=np.float32).reshape(64, 64)
        safetensors_io.write_folder(tmp_path / "o", [("x", x.shape, x.dtype, lambda: x)])
        folder = safetensors_io.open_folder(tmp_path / "o")
        mapped = []
        memmap = np.memmap

        def record(file, dtype, mode, offset, shape):
            mapped.append(int(np.prod(shape)) * np.dtype(dtype).itemsize)
            return memmap(file, dtype, mode, offset, shape)

        monkeypatch.setattr(np, "memmap", record)
        same(folder.read("x", (slice(3, 5),)), x[3:5])
        assert mapped == [2 * 64 * 4]

    @pytest.mark.parametrize("index", [(5,), (-4,), (slice(0, 2, 2),), (0, 0, 0, 0)])
    def test_index_that_does_not_fit(self, tmp_path, mixed, index):
        safetensors_io.write_folder(tmp_path / "o", entries(mixed))
        with pytest.raises(ValueError, match="tensor 'b' must be"):
            safetensors_io.open_folder(tmp_path / "o").read("b", index)

    def test_unknown_name(self, tmp_path, mixed):
        safetensors_io.write_folder(tmp_path / "o", entries(mixed))
        with pytest.raises(ValueError, match="'nobody'"):
            safetensors_io.open_folder(tmp_path / "o").read("nobody")


HUGE = 2**63
FORGED = {
    "no header": (b"", b"", None, "header length"),
    "length beyond the file": ({}, b"", 2**40, "header length"),
    "length of 2^64-1": ({}, b"", 2**64 - 1, "header length"),
    "not json": (b"nonsense", b"", None, "JSON"),
    "not utf-8": (b'{"\xff\xfe": 1}', b"", None, "JSON"),
    "deep json": (b"[" * 200_000, b"", None, "JSON"),
    "not an object": ([1], b"", None, "JSON object"),
    "a name twice": (b'{"x": 1, "x": 2}', b"", None, "unique; got 'x' twice"),
    "entry is a list": ({"x": []}, b"", None, "entry"),
    "entry lacks shape": ({"x": {"dtype": "F32", "data_offsets": [0, 0]}}, b"", None, "entry"),
    "unknown dtype": ({"x": entry("F31")}, bytes(8), None, "dtype"),
    "dtype is a list": ({"x": entry(["F32"])}, bytes(8), None, "dtype"),
    "negative size": ({"x": entry(shape=(-2, -1))}, bytes(8), None, "shape"),
    "size is true": ({"x": entry(shape=(True, 2))}, bytes(8), None, "shape"),
    "size is a float": ({"x": entry(shape=(2.0,))}, bytes(8), None, "shape"),
    "sizes overflow to 2": ({"x": entry(shape=(HUGE, 2, 1))}, bytes(8), None, "shape"),
    "empty but impossible": ({"x": entry(shape=(0, HUGE), offsets=(0, 0))}, b"", None, "shape"),
    "many axes": ({"x": entry(shape=(1,) * 99)}, bytes(8), None, "shape"),
    "shape beyond the bytes": ({"x": entry(shape=(3,))}, bytes(8), None, "span"),
    "shape below the bytes": ({"x": entry(shape=(1,))}, bytes(8), None, "span"),
    "offsets beyond the file": ({"x": entry(offsets=(0, 2**50))}, bytes(8), None, "lie in"),
    "offsets reversed": ({"x": entry(offsets=(8, 0))}, bytes(8), None, "lie in"),
    "offsets negative": ({"x": entry(offsets=(-8, 0))}, bytes(8), None, "data_offsets"),
    "offsets are three": ({"x": entry(offsets=(0, 8, 8))}, bytes(8), None, "data_offsets"),
    "overlap": ({"x": entry(), "y": entry()}, bytes(8), None, "overlap"),
    "hole": ({"x": entry(), "y": entry(offsets=(12, 20))}, bytes(20), None, "gap"),
    "bytes left over": ({"x": entry()}, bytes(9), None, "end with the file"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, b"", None, "__metadata__"),
}


class TestForged:
    @pytest.mark.parametrize("case", FORGED)
    def test_header(self, tmp_path, case):
        header, data, length, message = FORGED[case]
        write_raw(tmp_path / "model.safetensors", header, data, length)
        with pytest.raises(ValueError, match=message) as caught:
            safetensors_io.open_folder(tmp_path)
        assert "\n" not in str(caught.value)
        assert "model.safetensors" in str(caught.value)
        assert len(str(caught.value)) < 1000

    def test_damage_is_refused_or_harmless(self, tmp_path, mixed):
        """One byte of the header changed: ValueError, or a file whose tensors can be read."""
        safetensors_io.write_folder(tmp_path / "o", entries(mixed))
        file = tmp_path / "o" / "model.safetensors"
        whole = file.read_bytes()
        rng = np.random.default_rng(0)
        refused = 0
        for at in range(8 + int.from_bytes(whole[:8], "little")):
            damaged = bytearray(whole)
            damaged[at] = rng.integers(32, 127)
            file.write_bytes(damaged)
            try:
                folder = safetensors_io.open_folder(file)
                for name in folder.tensors:
                    assert folder.read(name).shape == folder.tensors[name].shape
            except ValueError as error:
                refused += "\n" not in str(error)
        assert refused > 100

    def test_cut_file(self, tmp_path, mixed):
        safetensors_io.write_folder(tmp_path / "o", entries(mixed))
        file = tmp_path / "o" / "model.safetensors"
        whole = file.read_bytes()
        for size in (0, 7, 8, 60, len(whole) - 1):
            file.write_bytes(whole[:size])
            with pytest.raises(ValueError, match=r"model\.safetensors"):
                safetensors_io.open_folder(tmp_path / "o")


def indexed(folder: pathlib.Path, weight_map, **more) -> pathlib.Path:
    folder.mkdir(exist_ok=True)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map, **more}))
    return folder


class TestFolders:
    @pytest.mark.parametrize(
        "name",
        [
            "../out.safetensors",
            "a/b.safetensors",
            "..",
            "",
            "pytorch_model.bin",
            "a\\b.safetensors",
        ],
    )
    def test_index_with_names_that_are_not_plain(self, tmp_path, name):
        write_raw(tmp_path / "out.safetensors", {"x": entry()}, bytes(8))
        with pytest.raises(ValueError, match="plain"):
            safetensors_io.open_folder(indexed(tmp_path / "in", {"x": name}))

    def test_index_with_an_absolute_path(self, tmp_path):
        write_raw(tmp_path / "out.safetensors", {"x": entry()}, bytes(8))
        folder = indexed(tmp_path / "in", {"x": str(tmp_path / "out.safetensors")})
        with pytest.raises(ValueError, match="plain"):
            safetensors_io.open_folder(folder)

    @pytest.mark.parametrize("single", [True, False])
    def test_links_that_leave(self, tmp_path, single):
        write_raw(tmp_path / "out.safetensors", {"x": entry()}, bytes(8))
        folder = tmp_path / "in"
        folder.mkdir()
        if single:
            (folder / "model.safetensors").symlink_to("../out.safetensors")
        else:
            indexed(folder, {"x": "a.safetensors"})
            (folder / "a.safetensors").symlink_to(tmp_path / "out.safetensors")
        with pytest.raises(ValueError, match="link out"):
            safetensors_io.open_folder(folder)

    def test_index_that_is_a_link(self, tmp_path):
        folder = indexed(tmp_path / "other", {})
        (tmp_path / "in").mkdir()
        name = "model.safetensors.index.json"
        (tmp_path / "in" / name).symlink_to(folder / name)
        with pytest.raises(ValueError, match="link out"):
            safetensors_io.open_folder(tmp_path / "in")

    def test_links_that_stay_and_those_of_the_cache(self, tmp_path):
        folder = tmp_path / "models--a--b" / "snapshots" / "1234"
        folder.mkdir(parents=True)
        write_raw(folder / "real.safetensors", {"x": entry()}, bytes(8))
        (folder / "model.safetensors").symlink_to("real.safetensors")
        assert list(safetensors_io.open_folder(folder).tensors) == ["x"]
        blobs = tmp_path / "models--a--b" / "blobs"
        blobs.mkdir()
        os.replace(folder / "real.safetensors", blobs / "abcd")
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors").symlink_to("../../blobs/abcd")
        same(safetensors_io.open_folder(folder).read("x"), np.zeros(2, np.float32))
        os.replace(blobs / "abcd", tmp_path / "models--a--b" / "abcd")
        (blobs / "abcd").symlink_to("../abcd")
        with pytest.raises(ValueError, match="link out"):
            safetensors_io.open_folder(folder)

    def test_index_and_files_disagree(self, tmp_path):
        folder = indexed(tmp_path / "in", {"x": "a.safetensors", "y": "a.safetensors"})
        with pytest.raises(ValueError, match="must exist"):
            safetensors_io.open_folder(folder)
        write_raw(folder / "a.safetensors", {"x": entry()}, bytes(8))
        with pytest.raises(ValueError, match=r"lacks \['y'\]"):
            safetensors_io.open_folder(folder)
        indexed(folder, {"x": "a.safetensors"})
        header = {"x": entry(), "z": entry(offsets=(8, 16))}
        write_raw(folder / "a.safetensors", header, bytes(16))
        with pytest.raises(ValueError, match=r"adds \['z'\]"):
            safetensors_io.open_folder(folder)

    def test_a_tensor_in_two_files(self, tmp_path):
        folder = indexed(tmp_path / "in", {"x": "a.safetensors", "y": "b.safetensors"})
        write_raw(folder / "a.safetensors", {"x": entry()}, bytes(8))
        header = {"x": entry(), "y": entry(offsets=(8, 16))}
        write_raw(folder / "b.safetensors", header, bytes(16))
        with pytest.raises(ValueError, match=r"adds \['x'\]"):
            safetensors_io.open_folder(folder)

    @pytest.mark.parametrize(
        "text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"x": 1}}']
    )
    def test_index_that_is_none(self, tmp_path, text):
        (tmp_path / "model.safetensors.index.json").write_text(text)
        with pytest.raises(ValueError, match="index"):
            safetensors_io.open_folder(tmp_path)

    def test_pickles_are_refused_by_name(self, tmp_path):
        (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
        with pytest.raises(ValueError, match=r"pytorch_model\.bin is not read"):
            safetensors_io.open_folder(tmp_path)
        with pytest.raises(ValueError, match=r"must be a \.safetensors file"):
            safetensors_io.open_folder(tmp_path / "pytorch_model.bin")

    def test_code_in_the_folder_is_not_run(self, tmp_path, mixed):
        trap = f"open({str(tmp_path / 'sprung')!r}, 'w')"
        config = {"auto_map": {"AutoModel": "modeling_x.Trap"}}
        files = {"config.json": json.dumps(config).encode(), "modeling_x.py": trap.encode()}
        safetensors_io.write_folder(tmp_path / "o", entries(mixed), files=files)
        safetensors_io.open_folder(tmp_path / "o").read("a")
        assert not (tmp_path / "sprung").exists()

    def test_two_sources_or_none(self, tmp_path):
        with pytest.raises(ValueError, match="exists"):
            safetensors_io.open_folder(tmp_path / "nowhere")
        with pytest.raises(ValueError, match="neither"):
            safetensors_io.open_folder(tmp_path)
        write_raw(tmp_path / "model.safetensors", {"x": entry()}, bytes(8))
        indexed(tmp_path, {"x": "model.safetensors"})
        with pytest.raises(ValueError, match="both"):
            safetensors_io.open_folder(tmp_path)


class TestWriting:
    def test_nothing_is_left_when_a_tensor_fails(self, tmp_path, mixed):
        def fail():
            raise OSError("no room")

        bad = [*entries(mixed), ("bad", (2,), np.float32, fail)]
        with pytest.raises(OSError, match="no room"):
            safetensors_io.write_folder(tmp_path / "o", bad, max_file_bytes=100)
        assert list(tmp_path.iterdir()) == []

    def test_a_tensor_that_was_announced_differently(self, tmp_path, mixed):
        bad = [("a", (5, 7), np.float16, lambda: mixed["a"])]
        with pytest.raises(ValueError, match="as announced"):
            safetensors_io.write_folder(tmp_path / "o", bad)
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_in_use_is_left_alone(self, tmp_path, mixed):
        (tmp_path / "mine").write_text("x")
        with pytest.raises(ValueError, match="new or empty"):
            safetensors_io.write_folder(tmp_path, entries(mixed))
        with pytest.raises(ValueError, match="new or empty"):
            safetensors_io.write_folder(tmp_path / "mine", entries(mixed))
        assert [p.name for p in tmp_path.iterdir()] == ["mine"]

    def test_names_and_dtypes(self, tmp_path, mixed):
        twice = [*entries(mixed), ("a", (5, 7), np.float32, lambda: mixed["a"])]
        for bad, message in (
            (twice, "unique"),
            ([("__metadata__", (), np.float32, None)], "reserved"),
            ([("x", (), np.complex64, None)], "dtype"),
            ([("x", (), ">f4", None)], "dtype"),
        ):
            with pytest.raises(ValueError, match=message):
                safetensors_io.write_folder(tmp_path / "o", bad)
        for name in ("../x", "model.safetensors", "a/b"):
            with pytest.raises(ValueError, match="plain names"):
                safetensors_io.write_folder(tmp_path / "o", entries(mixed), files={name: b""})
        assert list(tmp_path.iterdir()) == []

    def test_one_tensor_at_a_time_and_leftovers_of_a_kill(self, tmp_path):
        (tmp_path / ".o.partial").mkdir()
        (tmp_path / ".o.partial" / "model.safetensors").write_text("half")
        (tmp_path / "o").mkdir()
        calls = []

        def get(i):
            calls.append(i)
            return np.full(3, i, np.float32)

        tensors = [(str(i), (3,), np.float32, lambda i=i: get(i)) for i in range(4)]
        safetensors_io.write_folder(tmp_path / "o", iter(tensors), max_file_bytes=24)
        assert calls == [0, 1, 2, 3]
        assert [p.name for p in tmp_path.iterdir()] == ["o"]
        assert safetensors_io.open_folder(tmp_path / "o").read("3").tolist() == [3, 3, 3]
