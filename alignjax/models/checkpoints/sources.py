"""Maps between a parameter's axes and those of named tensors, slice by slice, both ways."""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

AXIS = r"[A-Za-z][A-Za-z0-9_]*"
Box = list[tuple[int, int]]  # [start, stop) of each axis
PIECE = 2**16  # bytes copied at a time where axes change places
Names = str | tuple["Names", ...]


@dataclasses.dataclass(frozen=True)
class Source:
    """Where one parameter's values stand.

    names: a tensor's name; nested tuples of names stack tensors along leading axes of the
      parameter (layers; layers and experts), one level an axis.
    axes: the tensor's axes, "->", the parameter's without the stacked ones: "(k g h) d -> d k g h"
      for a [K*G*H, D] matrix kept as [D, K, G, H]. Brackets join axes row-major on either side.
      "" leaves the tensor as it is.
    sizes: sizes of axes that the parameter's shape does not show: those of `take`, and all but one
      of each bracket on the right.
    take: the part of an axis that this parameter reads: a number, for an axis on the left only
      ("(two f) d -> d f" of a fused matrix), or (start, stop).
    rows: (first, behind the last, of how many) rows of the tensor, of which alone `axes` speaks:
      where a matrix holds others' rows too, of other sizes. None is all.
    scale, offset: parameter = scale * tensor + offset, computed in float32. Only powers of two as
      scales, and no offset, come back bit for bit.
    """

    names: Names
    axes: str = ""
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    take: Mapping[str, int | tuple[int, int]] = dataclasses.field(default_factory=dict)
    rows: tuple[int, int, int] | None = None
    scale: float = 1.0
    offset: float = 0.0


def fill(out: np.ndarray, values: np.ndarray) -> None:
    """`out[...] = values` in pieces of `values` that stay in a core's cache.

    numpy transposes a matrix of 16-bit numbers element by element over all of its memory, several
    times slower than this.
    """
    if values.flags.c_contiguous or values.nbytes <= PIECE:
        out[...] = values
        return
    axis = max(range(values.ndim), key=lambda i: (values.shape[i] > 1, values.strides[i]))
    step = max(1, PIECE * values.shape[axis] // values.nbytes)
    for start in range(0, values.shape[axis], step):
        at = (*(slice(None),) * axis, slice(start, start + step))
        fill(out[at], values[at])


def _side(text: str, where: str) -> list[list[str]]:
    """ "(k g) d" as [["k", "g"], ["d"]]."""
    if not re.fullmatch(rf"\s*(({AXIS}|\(\s*{AXIS}(\s+{AXIS})*\s*\))(\s+|$|(?=\()))*", text):
        raise ValueError(
            f"axes must be names and brackets of names, as in '(k h) d -> d k h'; "
            f"got {text!r} ({where})."
        )
    return [part.strip("()").split() for part in re.findall(rf"{AXIS}|\([^()]*\)", text)]


def _stacked(names: Names, where: str) -> np.ndarray:
    """Nested tuples of names as an array of names."""

    def shape(node: Names) -> tuple[int, ...]:
        if isinstance(node, str):
            return ()
        inner = {shape(part) for part in node}
        if len(inner) != 1:
            raise ValueError(
                f"names must be nested evenly and not be empty; got {node!r:.200} ({where})."
            )
        return (len(node), *inner.pop())

    array = np.empty(shape(names), object)
    for at in np.ndindex(array.shape):
        node: Any = names
        for i in at:
            node = node[i]
        array[at] = node
    return array


class Plan:
    """A Source worked out for a parameter of one shape.

    Attributes:
      names: array of tensor names, one axis for each stacked axis of the parameter.
      tensor_shape: the shape that each of these tensors must have.
      part: number of elements that the parameter takes from each.

    Raises:
      ValueError: the axes do not fit the shape; one line that names the parameter.
    """

    def __init__(self, where: str, source: Source, shape: tuple[int, ...]):
        self.where, self.source = where, source
        self.names = _stacked(source.names, where)
        depth = self.names.ndim
        if self.names.shape != shape[:depth]:
            raise ValueError(
                f"stacked names must be as many as the parameter's leading axes; got "
                f"{list(self.names.shape)} for {list(shape)} ({where})."
            )
        self.shape = shape[depth:]
        text = source.axes or " ".join(letters := [f"a{i}" for i in range(len(self.shape))])
        if not source.axes:
            text = f"{text} -> {' '.join(letters)}"
        if text.count("->") != 1:
            raise ValueError(f"axes must have one '->'; got {text!r} ({where}).")
        left, right = (_side(side, where) for side in text.split("->"))
        self.left = [axis for group in left for axis in group]
        self.right = right
        self._check_names()
        self.sizes = self._sizes()
        self.tensor_shape = tuple(math.prod(self.sizes[a] for a in group) for group in left)
        self.split_shape = tuple(self.sizes[a] for a in self.left)
        self._inner = math.prod(self.sizes[a] for a in left[0][1:]) if left else 1
        if source.rows is not None:
            start, stop, count = source.rows
            if not 0 <= start <= stop <= count or stop - start != self.tensor_shape[:1][0]:
                raise ValueError(
                    f"rows must be as many as the axes speak of, {self.tensor_shape[:1]}; got "
                    f"{source.rows} ({where})."
                )
            self.tensor_shape = (count, *self.tensor_shape[1:])
        self.part = math.prod(self.shape)

    def _check_names(self) -> None:
        """Every axis of the tensor is used once or a number is taken of it, and no other is."""
        kept = [axis for group in self.right for axis in group]
        numbers = [a for a, at in self.source.take.items() if isinstance(at, int)]
        ranges = [a for a in self.source.take if a not in numbers]
        if sorted(self.left) != sorted(kept + numbers) or len(set(self.left)) != len(self.left):
            raise ValueError(
                f"every axis must stand once on the left, and once on the right or as a number in "
                f"take; got {self.source.axes!r} and take {dict(self.source.take)} ({self.where})."
            )
        if any([axis] not in self.right for axis in ranges):
            raise ValueError(
                f"an axis with a range in take must stand on the right without brackets; got "
                f"{self.source.axes!r} and take {dict(self.source.take)} ({self.where})."
            )
        if len(self.right) != len(self.shape):
            raise ValueError(
                f"axes must be those of the parameter; got {self.source.axes!r} for "
                f"{list(self.shape)} ({self.where})."
            )

    def _sizes(self) -> dict[str, int]:
        """Sizes of all axes, from `sizes` and the parameter's shape."""
        sizes = dict(self.source.sizes)
        for group, size in zip(self.right, self.shape, strict=True):
            unknown = [axis for axis in group if axis not in sizes]
            if len(group) == 1 and group[0] not in self.source.take:
                sizes.setdefault(group[0], size)
            elif len(unknown) == 1 and len(group) > 1:
                sizes[unknown[0]] = size // max(math.prod(sizes.get(a, 1) for a in group), 1)
            elif unknown:
                raise ValueError(f"sizes must give {unknown}; got {sizes} ({self.where}).")
            whole = math.prod(sizes[axis] for axis in group)
            start, stop = self._range(group[0]) or (0, whole)
            if stop - start != size or not 0 <= start <= stop <= whole:
                known = {axis: sizes[axis] for axis in group}
                raise ValueError(
                    f"axes must fit the parameter's size {size}; got {known} and take "
                    f"{dict(self.source.take)} ({self.where}, {self.source.axes!r})."
                )
        for axis, at in self.source.take.items():
            if isinstance(at, int) and not 0 <= at < sizes.get(axis, 0):
                raise ValueError(
                    f"take must be below the axis's size, which sizes must give; got {axis}: {at} "
                    f"of {sizes.get(axis)} ({self.where})."
                )
        return sizes

    def _range(self, axis: str) -> tuple[int, int] | None:
        at = self.source.take.get(axis)
        return at if isinstance(at, tuple) else None

    def read(self, folder: Any, name: str, box: Box) -> np.ndarray:
        """The values of a box of the parameter (without its stacked axes) from one tensor."""
        index: dict[str, slice | int] = {
            axis: at for axis, at in self.source.take.items() if isinstance(at, int)
        }
        crops = []
        for group, (start, stop) in zip(self.right, box, strict=True):
            first, *others = group
            shift = (self._range(first) or (0, 0))[0]
            inner = math.prod(self.sizes[axis] for axis in others)
            low, high = start // max(inner, 1), -(-stop // max(inner, 1))
            index[first] = slice(low + shift, high + shift)
            index |= {axis: slice(None) for axis in others}
            crops.append(slice(start - low * inner, stop - low * inner))
        block = self._block(folder, name, tuple(index[axis] for axis in self.left))
        kept = [axis for axis in self.left if isinstance(index[axis], slice)]
        block = block.transpose([kept.index(axis) for group in self.right for axis in group])
        ends = np.cumsum([0, *map(len, self.right)])
        joined = [math.prod(block.shape[a:b]) for a, b in itertools.pairwise(ends)]
        block = block.reshape(joined)[tuple(crops)]
        if (self.source.scale, self.source.offset) == (1.0, 0.0):
            return block
        wide = block.astype(np.float32)
        return wide * np.float32(self.source.scale) + np.float32(self.source.offset)

    def _block(self, folder: Any, name: str, index: tuple[slice | int, ...]) -> np.ndarray:
        """The part of a tensor at `index` of the left side's axes."""
        if self.source.rows is None:
            return folder.read(name, index, self.split_shape)
        first, size = index[0], self.split_shape[0]
        low, high = (first, first + 1) if isinstance(first, int) else first.indices(size)[:2]
        start = self.source.rows[0]
        rows = slice(start + low * self._inner, start + high * self._inner)
        block = folder.read(name, (rows,), self.tensor_shape)
        rest = 0 if isinstance(first, int) else slice(None)
        return block.reshape(high - low, *self.split_shape[1:])[(rest, *index[1:])]

    def is_plain(self) -> bool:
        """Whether the tensor's values are the parameter's, in the same order."""
        kept = [axis for group in self.right for axis in group]
        scaled = (self.source.scale, self.source.offset) != (1.0, 0.0)
        whole = not self.source.take and self.source.rows is None
        return self.left == kept and whole and not scaled

    def view(self, tensor: np.ndarray) -> np.ndarray:
        """The part of a whole tensor, in memory row by row, that the parameter reads; its axes
        are those of the left side that are not numbers in `take`."""
        take = self.source.take
        index = (take.get(axis, (0, self.sizes[axis])) for axis in self.left)
        at = tuple(i if isinstance(i, int) else slice(*i) for i in index)
        if self.source.rows is not None:
            tensor = tensor[slice(*self.source.rows[:2])]
        return tensor.reshape(self.split_shape)[at]

    def write(self, values: np.ndarray, tensor: np.ndarray) -> None:
        """Puts the parameter's values (without its stacked axes) where they stand in the tensor."""
        if (self.source.scale, self.source.offset) != (1.0, 0.0):
            wide = values.astype(np.float32) - np.float32(self.source.offset)
            values = wide / np.float32(self.source.scale)
        flat = [axis for group in self.right for axis in group]
        ranges = [self._range(axis) or (0, self.sizes[axis]) for axis in flat]
        values = values.reshape([stop - start for start, stop in ranges])
        order = [flat.index(axis) for axis in self.left if axis in flat]
        fill(self.view(tensor), values.transpose(order))
