"""Hand-written TPU kernels in a compiled program, for which the compiler gives no cost.

A custom call carries neither cycles nor FLOPs. Its name tells the kernel, its operands the sizes.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from alignjax.planning import hlo

EFFICIENCY = 0.6  # of the matrix units' peak, where a kernel's sizes fill them: an assumption
LANES = 128  # a product's inner sizes are padded to this
SPLASH = re.compile(r"splash_m[qh]a_(fwd|dq|dkv)")
RAGGED = re.compile(r"ragged-dot-(?!metadata)")
# Products over pairs of tokens: forward, gradient of queries, of keys and values, and all at once.
PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4, "fused": 5}


class Kernel(NamedTuple):
    """One call. kind: splash | ragged | unknown. flops: of matrix products of one device. padded:
    the same with inner sizes as the matrix units see them."""

    kind: str
    name: str
    flops: float
    padded: float


class Around(NamedTuple):
    """What the calls of a program tell of one another. reach: keys that a query's row of blocks
    reaches in every forward splash call, 0 where they differ or there is none; a window's grid is
    no wider than the blocks that a row sees. split: whether gradients of queries have a kernel of
    their own, so that the one of keys and values does not make them too."""

    reach: int = 0
    split: bool = False


def is_call(instruction: hlo.Instruction) -> bool:
    """Whether an instruction is a hand-written kernel (other custom calls move or rename)."""
    return (
        instruction.opcode == "custom-call"
        and 'custom_call_target="tpu_custom_call"' in instruction.rest
    )


def read(
    instruction: hlo.Instruction, where: hlo.Computation, mesh: Mapping[str, int], beside: Around
) -> Kernel | None:
    """The kernel of an instruction; None where it is none. beside: of its program."""
    if not is_call(instruction):
        return None
    name = f"{instruction.name} {instruction.source}"
    if match := SPLASH.search(name):
        return _splash(instruction, where, match[1], beside)
    if RAGGED.search(name):
        return _ragged(instruction, where, mesh)
    short = instruction.source.rsplit("/", 2)[-1] or instruction.name
    kind = "metadata" if "ragged-dot-metadata" in name else "unknown"
    return Kernel(kind, short, 0.0, 0.0)


def around(program: hlo.Program) -> Around:
    """See `Around`."""
    reached, split = set(), False
    for where in program.computations.values():
        for instruction in where.values():
            match = (
                SPLASH.search(f"{instruction.name} {instruction.source}")
                if is_call(instruction)
                else None
            )
            split |= match is not None and match[1] == "dq"
            if match is not None and match[1] == "fwd":
                keys = _sizes(instruction, where)[2]
                reached.add(_grid(instruction, where)[1] * _blocks(instruction, "block_kv", keys))
    return Around(reached.pop() if len(reached) == 1 else 0, split)


def _dims(instruction: hlo.Instruction, where: hlo.Computation) -> list[hlo.Array]:
    """The operands' arrays: by the call's own list, which holds where an operand is elsewhere."""
    text = instruction.attribute(r"operand_layout_constraints=\{(.*?)\}(?:, \w+=|$)")
    arrays = [
        hlo.Array(kind, tuple(int(d) for d in dims.split(",") if d))
        for kind, dims, _ in hlo.ARRAY.findall(text)
    ]
    return arrays or [where[name].arrays[0] for name in instruction.operands if name in where]


def _grid(instruction: hlo.Instruction, where: hlo.Computation) -> tuple[int, int]:
    """(rows, columns) of a call's grid of blocks."""
    first = _dims(instruction, where)[0]
    return first.dims[-2], first.dims[-1]


def _sizes(instruction: hlo.Instruction, where: hlo.Computation) -> tuple[int, int, int, int, int]:
    """(rows of heads, queries, keys, inner size of scores, of values) of a splash call."""
    wide = [a for a in _dims(instruction, where) if a.dtype in ("bf16", "f16", "f32")][:3]
    query, key, value = (a.dims for a in wide)
    rows = 1
    for size in query[:-2]:
        rows *= size
    return rows, query[-2], key[-2], query[-1], value[-1]


def _blocks(instruction: hlo.Instruction, name: str, default: int) -> int:
    """A block size of the call's metadata."""
    match = re.search(rf'{name}\\?": (\d+)', instruction.rest)
    return int(match[1]) if match else default


def _splash(
    instruction: hlo.Instruction, where: hlo.Computation, part: str, beside: Around
) -> Kernel:
    """Causal attention over segments: blocks that lie on or below the diagonal and, in a window,
    within reach of it."""
    rows, queries, keys, inner, values = _sizes(instruction, where)
    part = "fused" if part == "dkv" and not beside.split else part
    suffix = {"fwd": "", "dq": "_dq"}.get(part, "_dkv")
    high = _blocks(instruction, f"block_q{suffix}", min(queries, 512))
    wide = _blocks(instruction, f"block_kv{suffix}", min(keys, 512))
    width = _grid(instruction, where)[1] * wide if part == "fwd" else beside.reach
    width = min(width or keys, keys)
    offset = keys - queries  # the last query sees the last key
    pairs = 0
    for first in range(0, queries, high):
        end = -(-min(first + high + offset, keys) // wide) * wide
        pairs += min(high, queries - first) * min(end, width, keys)
    sides = {"fwd": (1, 1), "dq": (2, 1), "dkv": (2, 2), "fused": (3, 2)}[part]
    assert sum(sides) == PRODUCTS[part]
    plain = 2.0 * rows * pairs
    pad = -(-inner // LANES) * LANES, -(-values // LANES) * LANES
    return Kernel(
        "splash",
        f"splash attention {part}",
        plain * (sides[0] * inner + sides[1] * values),
        plain * (sides[0] * pad[0] + sides[1] * pad[1]),
    )


def _ragged(
    instruction: hlo.Instruction, where: hlo.Computation, mesh: Mapping[str, int]
) -> Kernel:
    """Runs of rows, each times its own matrix: rows x inputs x outputs, whichever of the three the
    call makes. With experts on several devices each has its share of the rows, evenly."""
    arrays = [a for a in _dims(instruction, where) if a.dtype in ("bf16", "f16", "f32")][-2:]
    sizes = [a.dims for a in (*arrays, instruction.arrays[0])]
    flat = [dims for dims in sizes if len(dims) == 2]
    rows = max(dims[0] for dims in flat)
    (matrix,) = [dims for dims in sizes if len(dims) == 3] or [(1, *flat[0][1:], flat[1][1])]
    flops = 2.0 * rows * matrix[-2] * matrix[-1] / mesh.get("expert", 1)
    return Kernel("ragged", "grouped matmul", flops, flops)
