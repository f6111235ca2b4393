"""Weights stored as 8-bit floats with a scale for each block of them, as DeepSeek V3 publishes.

A matrix `name` [R, C] of float8 e4m3 stands beside `name`_scale_inv [ceil(R / b), ceil(C / c)] for
blocks of b rows and c columns: the weight is the stored number times its block's scale. Products
are then taken in the model's own dtype: activations are not rounded to 8 bits.

Reference: DeepSeek-AI 2024 (V3), section 3.3.2.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from alignjax.models.checkpoints import safetensors_io
from alignjax.models.checkpoints.safetensors_format import DTYPES, TensorInfo

FIELD = "quantization_config"
SCALE = "_scale_inv"
STORED = DTYPES["F8_E4M3"]
SCALES = tuple(DTYPES[name] for name in ("F32", "BF16", "F16", "F8_E8M0"))
# Which modules are kept wide is read off the tensors.
ABOUT = ("modules_to_not_convert", "ignored_layers", "scale_fmt", "dequantize")
LEGAL: dict[str, tuple[Any, ...]] = {
    "quant_method": ("fp8",),
    "fmt": ("e4m3", None),
    "activation_scheme": ("dynamic", None),
}


def block_of(fields: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    """(rows, columns) of a block, from the fields of a `config.json`; None where nothing is stored
    in 8 bits.

    Raises:
      ValueError: another way to store weights.
    """
    values = fields.get(FIELD)
    if values is None:
        return None
    if not isinstance(values, dict):
        raise ValueError(f"config.json: {FIELD} must hold an object; got {values!r:.80} ({where}).")
    for name, legal in LEGAL.items():
        if values.get(name) not in legal:
            raise ValueError(
                f"config.json: {FIELD}.{name} must be {legal[0]}; got {values.get(name)!r:.80} "
                f"({where}). Take weights that are stored whole, or convert them."
            )
    size = values.get("weight_block_size")
    if not isinstance(size, list) or [type(n) is int and n > 0 for n in size] != [True, True]:
        raise ValueError(
            f"config.json: {FIELD}.weight_block_size must be two sizes; got {size!r:.80} ({where})."
        )
    unknown = sorted(values.keys() - LEGAL.keys() - {"weight_block_size", *ABOUT})
    if unknown:
        raise ValueError(
            f"config.json: {FIELD} must hold fields that are known; got {', '.join(unknown)} "
            f"({where}). A field that is not understood may change the model."
        )
    return size[0], size[1]


class Fp8Folder:
    """A folder whose 8-bit matrices are read as float32, scaled, slice by slice.

    Attributes:
      tensors: name -> TensorInfo, without the scales; 8-bit matrices as if they were float32.

    Raises:
      ValueError: a matrix without its scales, scales without their matrix, or of another size.
    """

    def __init__(self, folder: safetensors_io.TensorFolder, block: tuple[int, int]):
        self._folder, self._block = folder, block
        held = folder.tensors
        self.tensors: dict[str, TensorInfo] = {}
        for name, info in held.items():
            if name.endswith(SCALE):
                of = held.get(name.removesuffix(SCALE))
                if of is None or of.dtype != STORED:
                    raise ValueError(
                        f"scales must stand beside an 8-bit matrix; {name} has none ({info.file})."
                    )
            elif info.dtype == STORED:
                self._check(name, info, held.get(name + SCALE))
                self.tensors[name] = info._replace(dtype=np.dtype(np.float32))
            else:
                self.tensors[name] = info

    def _check(self, name: str, info: TensorInfo, scale: TensorInfo | None) -> None:
        if len(info.shape) != 2:
            raise ValueError(
                f"an 8-bit tensor must be a matrix; got {list(info.shape)} ({name}, {info.file})."
            )
        wanted = tuple(-(-n // size) for n, size in zip(info.shape, self._block, strict=True))
        if scale is None or scale.shape != wanted or scale.dtype not in SCALES:
            got = "nothing" if scale is None else f"{scale.dtype}{list(scale.shape)}"
            raise ValueError(
                f"{name} must have scales {list(wanted)} of blocks {list(self._block)}; got {got} "
                f"({info.file})."
            )

    def read(
        self, name: str, index: safetensors_io.Index = (), shape: tuple[int, ...] | None = None
    ) -> np.ndarray:
        """A new array of the tensor's part at `index`, as `TensorFolder.read` gives it.

        Raises:
          ValueError: the name is unknown, or index or shape do not fit.
        """
        if name not in self.tensors or self._folder.tensors[name].dtype != STORED:
            return self._folder.read(name, index, shape)
        info = self._folder.tensors[name]
        stored = self._folder.read(name, index, shape)
        shape = info.shape if shape is None else shape
        scales = self._folder.read(name + SCALE).astype(np.float32)
        rows, columns = self._blocks(name, info.shape, index, shape)
        at = rows.reshape(*rows.shape, *[1] * columns.ndim), columns
        wide = stored.astype(np.float32)
        wide *= scales[at]
        return wide

    def _blocks(
        self, name: str, matrix: tuple[int, ...], index: safetensors_io.Index, shape: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of the blocks of rows and of columns that an index reads."""
        cuts = [n for n in range(len(shape) + 1) if math.prod(shape[:n]) == matrix[0]]
        if not cuts:
            raise ValueError(
                f"an 8-bit matrix must be read by rows and columns; got the shape {list(shape)} "
                f"for {list(matrix)} (tensor {name!r:.200})."
            )
        blocks = []
        for size, axes, part, block in (
            (matrix[0], shape[: cuts[0]], index[: cuts[0]], self._block[0]),
            (matrix[1], shape[cuts[0] :], index[cuts[0] :], self._block[1]),
        ):
            blocks.append(np.arange(size).reshape(axes)[(*part, ...)] // block)
        return blocks[0], blocks[1]
