"""Files of weights for tests, honest and forged."""

import json
import pathlib
import struct

import ml_dtypes
import numpy as np


def entries(tensors):
    """What `write_folder` takes, of arrays by name."""
    return [(name, x.shape, x.dtype, lambda x=x: x) for name, x in tensors.items()]


def write_raw(file: pathlib.Path, header, data: bytes = b"", length: int | None = None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def same(a, b):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert a.tobytes() == b.tobytes()


def mixed():
    """Arrays of several dtypes and ranks."""
    rng = np.random.default_rng(1)
    return {
        "a": rng.normal(size=(5, 7)).astype(np.float32),
        "b": rng.normal(size=(3, 4, 5)).astype(ml_dtypes.bfloat16),
        "scalar": np.array(0.25, np.float16),
        "none": np.zeros((0, 3), np.float32),
        "flags": rng.integers(0, 2, 9).astype(bool),
        "ids": rng.integers(-9, 9, (2, 2)),
    }
