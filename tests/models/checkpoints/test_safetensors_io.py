"""Safetensors read by slice, written whole or not at all, and refused where forged."""

import json

import numpy as np
import pytest

from alignjax.models.checkpoints import safetensors_format, safetensors_io
from tests.models.checkpoints.weights import entries, entry, mixed, same, write_raw

KINDS = list(safetensors_format.DTYPES.items())


@pytest.fixture(name="mixed")
def some_tensors():
    return mixed()


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
