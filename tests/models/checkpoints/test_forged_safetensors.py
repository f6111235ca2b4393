"""Forged, cut and damaged safetensors are refused in one line, before anything is allocated."""

import json
import os
import pathlib

import numpy as np
import pytest

from alignjax.models.checkpoints import safetensors_io
from tests.models.checkpoints.weights import entries, entry, mixed, same, write_raw


@pytest.fixture(name="mixed")
def some_tensors():
    return mixed()


HUGE = 2**63
FORGED = {
    "no header": (b"", b"", None, "header length"),
    "length beyond the file": ({}, b"", 2**40, "header length"),
    "length of one byte more": ({}, b"", 3, "header length"),
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
