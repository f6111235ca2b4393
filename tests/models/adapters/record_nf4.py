"""Records what bitsandbytes makes of a matrix in 4 bits: its codes, scales and numbers again.

Run where torch and bitsandbytes are installed and jax need not be:
  PYTHONPATH=. python -m tests.models.adapters.record_nf4
"""

import json
import pathlib

import numpy as np

FILE = pathlib.Path(__file__).parent / "goldens" / "nf4.npz"
SHAPE = (170, 128)  # [out, in]: 340 blocks of 64, more than one of 256 scales


def matrix() -> np.ndarray:
    """[out, in] fp32, with a block of zeros, one of one number, and numbers between two codes."""
    weight = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    weight[0, :64] = 0
    weight[1, :64] = 0
    weight[1, 5] = -3
    weight[2, :64] = np.linspace(-1, 1, 64, dtype=np.float32)
    return weight


def record():
    import bitsandbytes
    import torch
    from bitsandbytes import functional

    weight, found = torch.from_numpy(matrix()), {}
    for name, double in (("plain", False), ("double", True)):
        codes, state = functional.quantize_4bit(
            weight, blocksize=64, quant_type="nf4", compress_statistics=double
        )
        found[f"{name}_codes"] = codes.numpy().reshape(-1)
        again = functional.dequantize_4bit(codes, state).numpy()
        found[f"{name}_sums"] = again.astype(np.float64).sum(axis=1)
        found[f"{name}_first"] = again[:4]
        found[f"{name}_scales"] = state.absmax.numpy()
        if double:
            found["double_own"] = state.state2.absmax.numpy()
            found["double_offset"] = state.offset.numpy()
            found["map"] = state.state2.code.numpy()
        found["book"] = state.code.numpy()
    versions = {m.__name__: m.__version__ for m in (torch, bitsandbytes)}
    np.savez_compressed(FILE, versions=json.dumps(versions), **found)
    print(versions, FILE.stat().st_size)


if __name__ == "__main__":
    record()
