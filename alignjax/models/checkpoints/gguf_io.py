"""GGUF files (llama.cpp's format) as named tensors that are read by slice, and their metadata.

The header is read here, every length checked against the file's size first; the `gguf` package
turns quantised blocks into numbers.
"""

import math
import os
import pathlib
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from alignjax.core import gguf_header, untrusted
from alignjax.models.checkpoints import safetensors_io
from alignjax.models.checkpoints.safetensors_format import TensorInfo


class Kind(NamedTuple):
    """A tensor's type: `block` numbers stand in `size` bytes and are read as `dtype`."""

    name: str
    block: int
    size: int
    dtype: np.dtype


def _kinds() -> dict[int, Kind]:
    plain = {
        0: ("F32", np.float32),
        1: ("F16", np.float16),
        24: ("I8", np.int8),
        25: ("I16", np.int16),
        26: ("I32", np.int32),
        27: ("I64", np.int64),
        28: ("F64", np.float64),
        30: ("BF16", ml_dtypes.bfloat16),
    }
    packed = {
        2: ("Q4_0", 32, 18),
        3: ("Q4_1", 32, 20),
        6: ("Q5_0", 32, 22),
        7: ("Q5_1", 32, 24),
        8: ("Q8_0", 32, 34),
        10: ("Q2_K", 256, 84),
        11: ("Q3_K", 256, 110),
        12: ("Q4_K", 256, 144),
        13: ("Q5_K", 256, 176),
        14: ("Q6_K", 256, 210),
    }
    types = {}
    for code, (name, number) in plain.items():
        types[code] = Kind(name, 1, np.dtype(number).itemsize, np.dtype(number))
    for code, (name, block, size) in packed.items():
        types[code] = Kind(name, block, size, np.dtype(np.float32))
    return types


KINDS = _kinds()
DIMENSIONS = 4
COUNT_LIMIT = 2**56


class GgufFile(safetensors_io.TensorFolder):
    """The tensors of one GGUF file, with numpy's order of axes (the last varies fastest).

    Attributes:
      tensors: name -> TensorInfo; the dtype is that of what `read` returns (float32 for quantised
        tensors), start and stop are those of the bytes as they are packed.
      metadata: key -> number, text, array of numbers, or list of texts.
      kinds: name -> Kind.
    """

    def __init__(self, tensors: dict[str, TensorInfo], metadata: Any, kinds: dict[str, Kind]):
        super().__init__(tensors, metadata)
        self.kinds = kinds
        self._packed = safetensors_io.TensorFolder(
            {
                n: t._replace(dtype=np.dtype(np.uint8), shape=(t.stop - t.start,))
                for n, t in tensors.items()
            },
            {},
        )

    def read(
        self, name: str, index: safetensors_io.Index = (), shape: tuple[int, ...] | None = None
    ) -> np.ndarray:
        """As `TensorFolder.read`, dequantised: only the rows and blocks asked for are read.

        Raises:
          ValueError: also where `shape` joins a quantised tensor's last axis with others.
        """
        kind = self.kinds.get(name)
        if kind is None or kind.block == 1:
            return super().read(name, index, shape)
        info = self.tensors[name]
        shape = info.shape if shape is None else shape
        row = info.shape[-1]
        split = next((i for i in range(len(shape))[::-1] if math.prod(shape[i:]) == row), None)
        if split is None or math.prod(shape) != math.prod(info.shape):
            raise ValueError(
                f"the shape to read must keep the rows of {list(info.shape)}; got {list(shape)} "
                f"(tensor {name!r:.200}, {kind.name})."
            )
        box = safetensors_io.bounds(f"tensor {name!r:.200}", shape, index)
        if any(start == stop for start, stop in box):
            out = np.empty([stop - start for start, stop in box], np.float32)
            return out[(*safetensors_io.dropped(index), ...)]
        inner = math.prod(shape[split + 1 :])
        first, last = (edge * inner for edge in box[split])
        low, high = first // kind.block, -(-last // kind.block)
        packed = self._packed.read(
            name,
            (*(slice(*b) for b in box[:split]), slice(low * kind.size, high * kind.size)),
            (*shape[:split], row // kind.block * kind.size),
        )
        crop = slice(first - low * kind.block, last - low * kind.block)
        values = _dequantised(packed.reshape(-1, packed.shape[-1]), kind, crop)
        start, stop = box[split]
        values = values.reshape((*packed.shape[:-1], stop - start, *shape[split + 1 :]))
        rest = (slice(None),) * (split + 1) + tuple(slice(*b) for b in box[split + 1 :])
        return values[rest][(*safetensors_io.dropped(index), ...)]


def _dequantised(packed: np.ndarray, kind: Kind, crop: slice) -> np.ndarray:
    """Columns of rows of packed blocks as float32, some rows at a time."""
    try:
        import gguf
    except ImportError:
        raise ValueError(
            f"{kind.name} tensors need the gguf package. Install alignjax[hf]."
        ) from None
    which = gguf.GGMLQuantizationType[kind.name]
    out = np.empty((len(packed), crop.stop - crop.start), np.float32)
    step = max(1, safetensors_io.WINDOW // (packed.shape[1] // kind.size * kind.block * 4))
    for row in range(0, len(packed), step):
        out[row : row + step] = gguf.dequantize(packed[row : row + step], which)[:, crop]
    return out


def open_file(path: str | os.PathLike[str]) -> GgufFile:
    """The tensors and metadata of a GGUF file (version 2 or 3, little-endian).

    Raises:
      ValueError: the file is not what it claims to be; one line that names file and field.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"a GGUF file must exist; got {path}.")
    path = path.resolve()
    with untrusted.opened(path) as file:
        cursor = gguf_header.Cursor(file, path)
        count, metadata = gguf_header.begin(cursor)
        entries = [_entry(cursor) for _ in range(count)]
        align = metadata.get("general.alignment", 32)
        if not isinstance(align, int) or not 1 <= align <= 2**20 or align & (align - 1):
            raise cursor.fail("general.alignment must be a power of two, at most 2^20", align)
        data = -(-cursor.place // align) * align
    return _placed(cursor, entries, metadata, data, align)


def is_gguf(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as a GGUF does."""
    with untrusted.opened(path) as file:
        return file.read(4) == b"GGUF"


def without_tensors(path: str | os.PathLike[str]) -> bytes:
    """A GGUF file's metadata, its tokenizer among them, as a GGUF file without tensors.

    Raises:
      ValueError: as of `open_file`.
    """
    open_file(path)  # all of it is what it claims to be
    with untrusted.opened(path) as file:
        cursor = gguf_header.Cursor(file, path)
        gguf_header.begin(cursor)
        file.seek(0)
        whole = file.read(cursor.place)
    return whole[:8] + bytes(8) + whole[16:]  # magic and version; no tensors


def _entry(cursor: gguf_header.Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """(name, shape, type, offset) of a tensor."""
    name = cursor.text("a tensor's name")
    what = f"tensor {name!r:.200}"
    rank = cursor.number(4, what)
    if not 1 <= rank <= DIMENSIONS:
        raise cursor.fail(f"{what} must have 1 to {DIMENSIONS} axes", rank)
    shape = tuple(cursor.number(8, what) for _ in range(rank))[::-1]
    return name, shape, cursor.number(4, what), cursor.number(8, what)


def _placed(
    cursor: gguf_header.Cursor, entries: list[Any], metadata: Any, data: int, align: int
) -> GgufFile:
    """The file, after all tensors were found to lie in it and apart."""
    size, path = cursor.size, pathlib.Path(cursor.path)
    tensors: dict[str, TensorInfo] = {}
    kinds: dict[str, Kind] = {}
    for name, shape, code, offset in entries:
        what = f"tensor {name!r:.200}"
        if name in tensors:
            raise cursor.fail("tensor names must be unique", name)
        if code not in KINDS:
            known = ", ".join(kind.name for kind in KINDS.values())
            raise cursor.fail(f"{what} must be of type {known}", code)
        kind = KINDS[code]
        if math.prod(max(n, 1) for n in shape) > COUNT_LIMIT or shape[-1] % kind.block:
            raise cursor.fail(f"{what} must have possible sizes, in blocks of {kind.block}", shape)
        start = data + offset
        stop = start + math.prod(shape) // kind.block * kind.size
        if stop > size or offset % align:
            raise cursor.fail(f"{what} must lie in the file's {size} bytes, aligned", (start, stop))
        tensors[name] = TensorInfo(shape, kind.dtype, path, start, stop)
        kinds[name] = kind
    end = data
    for name, info in sorted(tensors.items(), key=lambda item: item[1][3:]):
        if info.start < end:
            raise cursor.fail(f"tensor {name!r:.200} must not overlap another", info.start)
        end = info.stop
    return GgufFile(tensors, metadata, kinds)


def undo_permutation(rows: np.ndarray, heads: int) -> np.ndarray:
    """The rows of a Llama query or key matrix in the order that our rotary embedding pairs them.

    llama.cpp stores each head's rows so that neighbours (2i, 2i + 1) are rotated together; here, as
    in transformers, row i goes with row i + H/2. As a `Source`: "(k g p two) d -> d k g (two p)"
    with sizes {"two": 2}.

    Args:
      rows: [heads * H, ...].
      heads: query heads for the query matrix, key heads for the key matrix.

    Raises:
      ValueError: the rows are not pairs in each of so many heads.
    """
    if heads < 1 or rows.shape[0] % (2 * heads):
        raise ValueError(f"rows must be pairs in {heads} heads; got {rows.shape[0]} rows.")
    paired = rows.reshape(heads, -1, 2, *rows.shape[1:])
    return paired.swapaxes(1, 2).reshape(rows.shape)
