"""The header of a safetensors file: read with every claim checked, and written.

A file is an 8-byte little-endian length, a JSON header of that length (name -> dtype, shape,
[start, stop) in the bytes that follow) and the bytes.
"""

import math
import os
import pathlib
import struct
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from alignjax.core import untrusted

DTYPES: dict[str, np.dtype] = {
    name: np.dtype(kind)
    for name, kind in {
        "F64": np.float64,
        "F32": np.float32,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E8M0": ml_dtypes.float8_e8m0fnu,
        "I64": np.int64,
        "I32": np.int32,
        "I16": np.int16,
        "I8": np.int8,
        "U64": np.uint64,
        "U32": np.uint32,
        "U16": np.uint16,
        "U8": np.uint8,
        "BOOL": np.bool_,
    }.items()
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
HEADER_LIMIT = 100_000_000  # bytes, the format's own limit
RANK_LIMIT = 16
COUNT_LIMIT = 2**56  # elements, empty axes counted as 1: sizes stay below 2^63


class TensorInfo(NamedTuple):
    """Where a tensor lies: bytes [start, stop) of `file`, row-major."""

    shape: tuple[int, ...]
    dtype: np.dtype
    file: pathlib.Path
    start: int
    stop: int


def parse_json(text: bytes, where: str) -> dict[str, Any]:
    """The JSON object of a text in which no key stands twice."""
    value = untrusted.parse_json(text, where, strict=True)
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a JSON object; got {type(value).__name__}.")
    return value


def read_header(path: pathlib.Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """(tensors, metadata) of one file after all of its claims were checked."""
    with untrusted.opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        lead = file.read(8)
        length = struct.unpack("<Q", lead)[0] if len(lead) == 8 else 0
        if not 2 <= length <= min(HEADER_LIMIT, size - 8):
            raise ValueError(
                f"header length must be between 2 and {min(HEADER_LIMIT, max(size - 8, 0))}; "
                f"got {length} ({path}). The file is cut or is not safetensors."
            )
        header = parse_json(file.read(length), f"{path}: header")
    about = header.pop("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(v, str) for v in about.values()):
        raise ValueError(f"__metadata__ must map names to text ({path}).")
    data = 8 + length
    tensors = {name: _info(path, data, size, name, fields) for name, fields in header.items()}
    end = data
    for name, info in sorted(tensors.items(), key=lambda item: item[1][3:]):
        if info.start != end:
            raise ValueError(
                f"data_offsets must follow one another without gap or overlap; tensor "
                f"{name!r:.200} starts at {info.start - data}, not {end - data} ({path})."
            )
        end = info.stop
    if end != size:
        raise ValueError(f"data_offsets must end with the file; got {end} of {size} ({path}).")
    return tensors, about


def _is_count(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and x >= 0


def _info(path: pathlib.Path, data: int, size: int, name: str, fields: Any) -> TensorInfo:
    """One tensor's entry after its own checks."""
    where = f"(tensor {name!r:.200}, {path})"
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"an entry must have dtype, shape and data_offsets only {where}.")
    kind, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {kind!r:.80} {where}.")
    if not isinstance(shape, list) or len(shape) > RANK_LIMIT or not all(map(_is_count, shape)):
        raise ValueError(
            f"shape must be at most {RANK_LIMIT} sizes >= 0; got {shape!r:.80} {where}."
        )
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise ValueError(f"data_offsets must be two numbers >= 0; got {offsets!r:.80} {where}.")
    start, stop = offsets
    if not start <= stop <= size - data:
        raise ValueError(
            f"data_offsets must lie in the file's {size - data} bytes; got {offsets!r:.80} {where}."
        )
    if math.prod(max(n, 1) for n in shape) > COUNT_LIMIT:
        raise ValueError(f"shape must be of a possible size; got {shape!r:.80} {where}.")
    if math.prod(shape) * DTYPES[kind].itemsize != stop - start:
        raise ValueError(
            f"data_offsets must span the bytes of {kind}{shape!r:.80}; got {offsets!r:.80} {where}."
        )
    return TensorInfo(tuple(shape), DTYPES[kind], path, data + start, data + stop)
