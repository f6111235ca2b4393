"""Bytes of a device: exact ones of arguments, the compiler's of the rest, and what overflowed."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from alignjax.core import trees
from alignjax.planning import hlo

CATEGORIES = ("parameters", "optimizer", "frozen", "batch", "other")
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Memory(NamedTuple):
    """Bytes of one device while a program runs.

    arguments: by category, exact. resident: by category, of trees that are held but not read.
    padding: what tiles and alignment add to the arguments, less what the program does not read.
    outputs: results that reuse no argument. temporaries: activations, gradients, the KV cache;
    `cache` is the exact size of that one. code: of the program.
    """

    arguments: dict[str, int]
    resident: dict[str, int]
    padding: int
    outputs: int
    temporaries: int
    code: int
    cache: int

    @property
    def total(self) -> int:
        known = sum(self.arguments.values()) + sum(self.resident.values())
        return known + self.padding + self.outputs + self.temporaries + self.code


def local_bytes(x: Any) -> int:
    """Bytes of one device's part of an abstract array."""
    sharding = getattr(x, "sharding", None)
    sizes = x.shape if sharding is None else sharding.shard_shape(x.shape)
    dtype = x.dtype
    if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(x.shape, dtype))
        return int(np.prod(data.shape, dtype=np.int64)) * data.dtype.itemsize
    return int(np.prod(sizes, dtype=np.int64)) * dtype.itemsize


def tree_bytes(tree: Any) -> int:
    """The same of all leaves."""
    return sum(local_bytes(x) for x in jax.tree.leaves(tree))


def by_category(parts: Iterable[tuple[str, Any]]) -> dict[str, int]:
    """Bytes of trees by category, in the order of CATEGORIES; what two of them share is one."""
    sizes = dict.fromkeys(CATEGORIES, 0)
    for category, leaves in held_beside(tuple(parts), ()):
        sizes[category] += tree_bytes(leaves)
    return {name: size for name, size in sizes.items() if size}


def held_beside(
    held: Sequence[tuple[str, Any]], read: Sequence[tuple[str, Any]]
) -> tuple[tuple[str, Any], ...]:
    """The held trees less what the program reads: each shape object stands for one array."""
    seen = {id(x) for _, tree in read for x in jax.tree.leaves(tree)}
    rest = []
    for name, tree in held:
        fresh = {id(x): x for x in jax.tree.leaves(tree) if id(x) not in seen}
        seen |= fresh.keys()
        rest.append((name, list(fresh.values())))
    return tuple(rest)


def measure(
    stats: Any, parts: Sequence[tuple[str, Any]], held: Sequence[tuple[str, Any]], cache: Any
) -> Memory:
    """Memory from `compiled.memory_analysis()` and the trees of a program and of the run."""
    arguments = by_category(parts)
    # An array that is given twice is there once, but the compiler counts it as often.
    padding = stats.argument_size_in_bytes - sum(tree_bytes(tree) for _, tree in parts)
    return Memory(
        arguments=arguments,
        resident=by_category(held_beside(held, parts)),
        padding=max(padding, 0),
        outputs=max(stats.output_size_in_bytes - stats.alias_size_in_bytes, 0),
        temporaries=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
        cache=tree_bytes(cache),
    )


def largest_arguments(parts: Iterable[tuple[str, Any]], count: int = 3) -> list[tuple[str, int]]:
    """(name, bytes of one device) of the largest arguments."""
    largest = []
    for category, tree in parts:
        for name, leaf in trees.named_leaves(tree).items():
            sizes = "x".join(map(str, leaf.shape))
            largest.append((f"{category} {name} {leaf.dtype}[{sizes}]", local_bytes(leaf)))
    return sorted(largest, key=lambda pair: -pair[1])[:count]


def largest_temporaries(program: hlo.Program, count: int = 3) -> list[tuple[str, int]]:
    """(operation, bytes) of the largest arrays that the program makes in HBM."""
    largest: dict[str, int] = {}
    fused = {n for _, x, _ in hlo.every(program) if x.opcode == "fusion" for n in x.called}
    skipped = ("parameter", "tuple", "get-tuple-element", "while", "bitcast", "constant", "call")
    for _, instruction, where in hlo.every(program):
        if where in fused or instruction.opcode in skipped:
            continue
        for array in instruction.arrays:
            if array.in_hbm:
                sizes = "x".join(map(str, array.dims))
                name = f"{instruction.source or instruction.name} {array.dtype}[{sizes}]"
                largest[name] = max(largest.get(name, 0), array.bytes)
    return sorted(largest.items(), key=lambda pair: -pair[1])[:count]


class Overflow(NamedTuple):
    """What the compiler says of a program that does not fit: bytes, and the largest arrays."""

    kind: str
    needed: int
    limit: int
    arrays: list[tuple[str, int]]


def size_of(text: str) -> int:
    """Bytes of "1.5G"."""
    match = re.fullmatch(r"([\d.]+)([KMGT]?)i?B?", text)
    return int(float(match[1]) * UNITS[match[2]]) if match else 0


def overflow(message: str) -> Overflow | None:
    """The overflow that a compile error tells of; None where it is another error."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    used = re.search(r"Used ([\d.]+[KMGT]?) of ([\d.]+[KMGT]?) (\w+)", message)
    used = used or re.search(
        r"\(([\d.]+[KMGT]?)\) exceeds available \w+ \(([\d.]+[KMGT]?)\)", message
    )
    kind = "vmem" if "vmem" in message.lower() else "hbm"
    arrays = []
    for block in re.split(r"\n\s*\d+\. ", message)[1:]:
        size = re.match(r"Size: ([\d.]+[KMGT]?)", block)
        name = re.search(r"op_name=\"([^\"]*)\"", block)
        shape = re.search(r"Shape: (\S+?)\{|Shape: (\S+)", block)
        if size:
            what = shape[1] or shape[2] if shape else ""
            source = name[1] if name else "an argument or constant"
            arrays.append((f"{source} {what}".strip(), size_of(size[1])))
    needed, limit = (size_of(used[i]) for i in (1, 2)) if used else (0, 0)
    return Overflow(kind, needed, limit, arrays[:5])


def largest_tensors(text: str, count: int = 3) -> list[tuple[str, int]]:
    """(type, bytes) of the largest arrays of a program before it is compiled, all devices'."""
    largest: dict[str, int] = {}
    for sizes, kind in set(re.findall(r"tensor<((?:\d+x)+)([a-z]+\d+)>", text)):
        kind = {"i1": "pred", "ui32": "u32", "ui8": "u8"}.get(kind, kind.replace("i", "s"))
        array = hlo.Array(kind, tuple(int(x) for x in sizes.split("x")[:-1]))
        largest[f"{kind}[{sizes[:-1]}] over all devices"] = array.bytes
    return sorted(largest.items(), key=lambda pair: -pair[1])[:count]
