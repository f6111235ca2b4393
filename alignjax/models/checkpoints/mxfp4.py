"""Experts stored in 4-bit floats with a power of two for each 32 of them, as GPT-OSS publishes.

A stack of matrices `name` [E, I, O] stands as `name`_blocks [E, O, I / 32, 16] and `name`_scales
[E, O, I / 32], both uint8. A byte holds two numbers of E2M1, the earlier one in its lower bits; a
number times 2^(scale - 127) is the weight. float32 and bfloat16 hold each such weight exactly.

Reference: OCP 2023 (Microscaling formats 1.0), sections 5.2 and 6.3.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from alignjax.models.checkpoints import safetensors_io
from alignjax.models.checkpoints.safetensors_format import TensorInfo

BLOCKS, SCALES = "_blocks", "_scales"
BLOCK = 32  # numbers that share a scale
_HALF = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
E2M1 = np.concatenate([_HALF, -_HALF])  # by the number's four bits
_PAIRS = np.stack([E2M1[np.arange(256) & 15], E2M1[np.arange(256) >> 4]], axis=-1)
_NAN = 255  # the scale that is no number
ABOUT = ("quant_method", "modules_to_not_convert", "dequantize")


def check(values: Mapping[str, Any], where: str) -> None:
    """Refuses fields of a `quantization_config` that are not understood."""
    unknown = sorted(values.keys() - {*ABOUT})
    if unknown:
        raise ValueError(
            f"config.json: quantization_config must hold fields that are known; got "
            f"{', '.join(unknown)} ({where}). A field that is not understood may change the model."
        )


class Mxfp4Folder:
    """A folder's tensors, those of 4 bits as the float32 ones that they stand for.

    Attributes:
      tensors: name -> TensorInfo; blocks and scales are not among them.

    Raises:
      ValueError: blocks without scales, scales without blocks, or of other sizes.
    """

    def __init__(self, folder: Any):
        self._folder = folder
        held: dict[str, TensorInfo] = folder.tensors
        self.tensors: dict[str, TensorInfo] = {}
        for name, info in held.items():
            if name.endswith(SCALES) and info.dtype == np.uint8:
                if name.removesuffix(SCALES) + BLOCKS not in held:
                    raise ValueError(
                        f"scales must stand beside 4-bit blocks; {name} has none ({info.file})."
                    )
            elif name.endswith(BLOCKS) and info.dtype == np.uint8:
                whole = name.removesuffix(BLOCKS)
                shape = self._shape(whole, info, held.get(whole + SCALES))
                if whole in held:
                    raise ValueError(
                        f"a tensor must be stored once; {whole} stands beside its 4-bit blocks "
                        f"({info.file})."
                    )
                self.tensors[whole] = info._replace(dtype=np.dtype(np.float32), shape=shape)
            else:
                self.tensors[name] = info

    def _shape(self, name: str, blocks: TensorInfo, scales: TensorInfo | None) -> tuple[int, ...]:
        """[E, I, O] of the whole stack."""
        if len(blocks.shape) != 4 or blocks.shape[3] != BLOCK // 2:
            raise ValueError(
                f"4-bit blocks must be [experts, outputs, inputs / 32, 16]; got "
                f"{list(blocks.shape)} ({name}{BLOCKS}, {blocks.file})."
            )
        if scales is None or scales.shape != blocks.shape[:3] or scales.dtype != np.uint8:
            got = "nothing" if scales is None else f"{scales.dtype}{list(scales.shape)}"
            raise ValueError(
                f"{name}{SCALES} must be uint8{list(blocks.shape[:3])}, a scale for each block; "
                f"got {got} ({blocks.file})."
            )
        experts, outputs, count, _ = blocks.shape
        return experts, count * BLOCK, outputs

    def read(
        self, name: str, index: safetensors_io.Index = (), shape: tuple[int, ...] | None = None
    ) -> np.ndarray:
        """A new array of the tensor's part at `index`, as `TensorFolder.read` gives it.

        Raises:
          ValueError: the name is unknown, index or shape do not fit, or a scale is no number.
        """
        if name not in self.tensors or name + BLOCKS not in self._folder.tensors:
            return self._folder.read(name, index, shape)
        experts, inputs, _ = whole = self.tensors[name].shape
        shape = whole if shape is None else shape
        if shape[:2] != whole[:2] or math.prod(shape) != math.prod(whole):
            raise ValueError(
                f"a 4-bit stack must be read by experts and inputs; got the shape {list(shape)} "
                f"for {list(whole)} (tensor {name!r:.200})."
            )
        at = (*index, *[slice(None)] * (len(shape) - len(index)))
        first, last = _range(at[1], inputs)
        groups = slice(first // BLOCK, -(-last // BLOCK))
        stored = (experts, *shape[2:], inputs // BLOCK)
        place = (at[0], *at[2:], groups)
        scales = self._folder.read(name + SCALES, place, stored)
        if (scales == _NAN).any():
            raise ValueError(f"{name}{SCALES} must be numbers; got 255, which is none.")
        blocks = self._folder.read(name + BLOCKS, place, (*stored, BLOCK // 2))
        wide = _decoded(blocks, scales)
        start = groups.start * BLOCK
        wide = wide[..., first - start : last - start]
        if isinstance(at[1], int):
            return np.ascontiguousarray(wide[..., 0])
        return np.ascontiguousarray(np.moveaxis(wide, -1, 0 if isinstance(at[0], int) else 1))


def _range(at: Any, size: int) -> tuple[int, int]:
    """(first, one behind the last) of an index of the inputs."""
    return at.indices(size)[:2] if isinstance(at, slice) else (at, at + 1)


def _decoded(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """[..., 32 G] of blocks [..., G, 16] and scales [..., G]."""
    pairs = _PAIRS[blocks]  # [..., G, 16, 2]
    pairs *= np.ldexp(np.float32(1), scales.astype(np.int32) - 127)[..., None, None]
    return pairs.reshape(*blocks.shape[:-2], -1)
