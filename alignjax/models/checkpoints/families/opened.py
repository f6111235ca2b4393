"""A folder's tensors as a family names them: without those left out on request, and experts that
are stored side by side under the names that each has by itself."""

import re
from typing import Any

import numpy as np

from alignjax.models.checkpoints import sharded
from alignjax.models.checkpoints.families import composite
from alignjax.models.checkpoints.safetensors_format import TensorInfo

FURTHER = "mtp."  # a layer that predicts a further token
Parts = dict[str, tuple[str, tuple[int, ...]]]
STACK = re.compile(r"(.*\.experts)\.(gate_up_proj|down_proj)")


class Renamed:
    """Tensors under other names, some of which are a part of a stored one.

    Attributes:
      tensors: name -> TensorInfo.
    """

    def __init__(self, held: sharded.Tensors, parts: Parts):
        """parts: name -> (the stored name, the index of the part in the axes of `_shape`)."""
        self._held, self._parts = held, parts
        self.tensors: dict[str, TensorInfo] = {
            name: self._info(stored, at) for name, (stored, at) in parts.items()
        }

    def _shape(self, stored: str, at: tuple[int, ...]) -> tuple[int, ...]:
        """A stored shape whose second axis is cut in two where `at` says which half."""
        first, *rest = self._held.tensors[stored].shape
        return (first, 2, rest[0] // 2, *rest[1:]) if len(at) == 2 else (first, *rest)

    def _info(self, stored: str, at: tuple[int, ...]) -> TensorInfo:
        info = self._held.tensors[stored]
        return info._replace(shape=self._shape(stored, at)[len(at) :]) if at else info

    def read(self, name: str, index: Any = (), shape: tuple[int, ...] | None = None) -> np.ndarray:
        """A new array of the tensor's part at `index`, as `TensorFolder.read` gives it."""
        stored, at = self._parts.get(name, (name, ()))
        if not at:
            return self._held.read(stored, index, shape)
        own = self.tensors[name].shape if shape is None else shape
        return self._held.read(stored, (*at, *index), (*self._shape(stored, at)[: len(at)], *own))


def further(held: sharded.Tensors, skip: str, where: str) -> sharded.Tensors:
    """The tensors without the layer that predicts a further token.

    Raises:
      ValueError: there is one, and `skip` does not leave it out.
    """
    extra = sum(name.startswith(FURTHER) for name in held.tensors)
    if not extra:
        return held
    if composite.MTP not in composite.skipped(skip):
        both = composite.BOTH if composite.VISION in composite.skipped(skip) else composite.MTP
        raise ValueError(
            f"weights must be of one next token; {where} predicts further ones too: {FURTHER}* "
            f"({extra} tensors). Ask for the model without them: --config.weights_skip={both}, or "
            f"--skip={both} with --model."
        )
    kept: Parts = {name: (name, ()) for name in held.tensors if not name.startswith(FURTHER)}
    return Renamed(held, kept)


def apart(held: sharded.Tensors, skip: str, where: str) -> sharded.Tensors:
    """`further`, and experts one by one where the folder holds them in stacks: gate and up [E, 2F,
    D], down [E, D, F]."""
    held = further(held, skip, where)
    parts: Parts = {}
    for name, info in held.tensors.items():
        found = STACK.fullmatch(name)
        if not found:
            parts[name] = (name, ())
            continue
        fused = found[2] == "gate_up_proj"
        if len(info.shape) != 3 or (fused and info.shape[1] % 2):
            rule = "three axes, the second of gates and ups" if fused else "three axes"
            raise ValueError(f"tensor {name} must have {rule}; got {list(info.shape)} ({where}).")
        for expert in range(info.shape[0]):
            own: dict[str, tuple[int, ...]] = {"down_proj": (expert,)}
            if fused:
                own = {"gate_proj": (expert, 0), "up_proj": (expert, 1)}
            for part, at in own.items():
                parts[f"{found[1]}.{expert}.{part}.weight"] = (name, at)
    return Renamed(held, parts) if any(at for _, at in parts.values()) else held
