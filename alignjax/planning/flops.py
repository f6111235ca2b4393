"""FLOPs of compiled programs, each loop's body counted as often as it runs."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from alignjax.planning import hlo, kernels


def dot_flops(where: hlo.Computation, dot: hlo.Instruction) -> float:
    """2 x the result's elements x the contracted sizes."""
    left = where[dot.operands[0]].arrays[0].dims
    axes = dot.attribute(r"lhs_contracting_dims=\{([\d,]*)\}")
    contracted = [left[int(axis)] for axis in axes.split(",") if axis]
    return 2.0 * dot.arrays[0].elements * float(np.prod(contracted, dtype=np.float64))


def _window(text: str, rank: int) -> list[dict[str, int]]:
    """The window of each spatial dimension."""
    sizes = dict(re.findall(r"(\w+)=([-\dx_]+)", text))

    def read(name: str, default: str) -> list[str]:
        return sizes.get(name, "x".join([default] * rank)).split("x") if rank else []

    pads = [pad.split("_")[0] for pad in read("pad", "0_0")]
    columns = {
        "size": read("size", "1"),
        "stride": read("stride", "1"),
        "low": pads,
        "spread": read("lhs_dilate", "1"),
        "reach": read("rhs_dilate", "1"),
    }
    return [{name: int(column[i]) for name, column in columns.items()} for i in range(rank)]


def _taps(window: dict[str, int], size: int, result: int) -> int:
    """Products of one spatial dimension that read the input itself, not its padding or holes."""
    taps = np.arange(window["size"], dtype=np.int64) * window["reach"] - window["low"]
    if len(taps) * result > 10**8:
        return min(len(taps), size) * result
    at = np.arange(result, dtype=np.int64)[:, None] * window["stride"] + taps
    inside = (at >= 0) & (at <= (size - 1) * window["spread"])
    return int(np.sum(inside & (at % window["spread"] == 0)))


def convolution_flops(where: hlo.Computation, instruction: hlo.Instruction) -> float:
    """2 x batch x output features x input features of the kernel x taps of every dimension."""
    labels = instruction.attribute(r"dim_labels=([^,\s]+)")
    left, rest = labels.split("_", 1)
    right, out = rest.split("->")
    sizes, kernel = (
        where[instruction.operands[0]].arrays[0].dims,
        where[instruction.operands[1]].arrays[0].dims,
    )
    result = instruction.arrays[0].dims
    spatial = [c for c in out if c.isdigit()]
    windows = _window(instruction.attribute(r"window=\{([^}]*)\}"), len(spatial))
    total = 2.0 * result[out.index("b")] * result[out.index("f")] * kernel[right.index("i")]
    for number, label in enumerate(sorted(spatial)):
        total *= _taps(windows[number], sizes[left.index(label)], result[out.index(label)])
    return total / int(instruction.attribute(r"batch_group_count=(\d+)") or 1)


def matmul_flops(program: hlo.Program, unknown: float = 1.0) -> float:
    """FLOPs of all matrix products of one device but kernels'; vector operations do not count."""
    total = 0.0
    for name, times in hlo.visits(program, unknown).items():
        where = program.computations[name]
        for instruction in where.values():
            if instruction.opcode == "dot":
                total += times * dot_flops(where, instruction)
            elif instruction.opcode == "convolution":
                total += times * convolution_flops(where, instruction)
    return total


class InKernels(NamedTuple):
    """What kernels do on one device. attention, others: FLOPs. unknown: names of those that are
    not counted."""

    attention: float
    others: float
    unknown: tuple[str, ...]


def kernel_flops(program: hlo.Program, mesh: Mapping[str, int], unknown: float = 1.0) -> InKernels:
    """FLOPs of hand-written kernels, from the sizes of their operands; loops counted."""
    sums, names, beside = {"splash": 0.0, "ragged": 0.0}, set(), kernels.around(program)
    for name, times in hlo.visits(program, unknown).items():
        where = program.computations[name]
        for instruction in where.values():
            kernel = kernels.read(instruction, where, mesh, beside)
            if kernel is not None and kernel.kind in sums:
                sums[kernel.kind] += times * kernel.flops
            elif kernel is not None and kernel.kind == "unknown":
                names.add(kernel.name)
    return InKernels(sums["splash"], sums["ragged"], tuple(sorted(names)))
