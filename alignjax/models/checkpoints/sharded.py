"""Parameters read from named tensors straight into arrays on devices, and tensors out of them.

A host holds one device's part of one parameter at a time, never the model: each device's slice is
read by itself, cast, put on its device and dropped.
"""

import fnmatch
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import trees
from alignjax.models import params
from alignjax.models.checkpoints import safetensors_io
from alignjax.models.checkpoints.safetensors_format import TensorInfo
from alignjax.models.checkpoints.sources import Box, Plan, Source, fill
from alignjax.parallel import axes

__all__ = ["Source", "Tensors", "load", "targets", "tensors_of"]


class Tensors(Protocol):
    """Named tensors that can be read by slice: a safetensors folder or a GGUF file."""

    tensors: dict[str, TensorInfo]

    def read(
        self, name: str, index: safetensors_io.Index = (), shape: tuple[int, ...] | None = None
    ) -> np.ndarray: ...


def targets(declared: Any, dtype: Any) -> Any:
    """Shape, dtype and layout on the current mesh of each parameter of a declared tree."""
    mesh = jax.sharding.get_mesh() if axes.has_mesh() else None

    def one(info: params.ParamInfo) -> jax.ShapeDtypeStruct:
        where = None if mesh is None else jax.sharding.NamedSharding(mesh, axes.spec(info.axes))
        return jax.ShapeDtypeStruct(info.shape, dtype, sharding=where)

    return jax.tree.map(one, declared, is_leaf=params.is_info)


def _plans(tree: Any, sources: Any) -> dict[str, Plan]:
    """A plan for every leaf, by its path name."""
    leaves, by_name = trees.named_leaves(tree), trees.named_leaves(sources)
    if leaves.keys() != by_name.keys():
        raise ValueError(
            f"sources must have the parameters' tree; without source: "
            f"{_some(leaves.keys() - by_name.keys())}; without parameter: "
            f"{_some(by_name.keys() - leaves.keys())}."
        )
    return {name: Plan(name, by_name[name], tuple(leaf.shape)) for name, leaf in leaves.items()}


def _some(names: Iterable[str]) -> str:
    """The first names and how many there are."""
    listed = sorted(names)
    more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
    return f"{', '.join(listed[:8]) or 'none'}{more}"


def _may_cast(stored: Any, wanted: Any) -> bool:
    """Whether values keep their meaning: equal dtypes, or floats that need no scales."""
    if np.dtype(stored) == np.dtype(wanted):
        return True
    floats = [
        jnp.issubdtype(d, jnp.floating) and np.dtype(d).itemsize > 1 for d in (stored, wanted)
    ]
    return all(floats)


def _check(folder: Tensors, plans: dict[str, Plan], leaves: dict[str, Any], unread: Any) -> None:
    """Refuses a folder that does not hold exactly what is wanted, before anything is read."""
    used: dict[str, int] = {}
    for plan in plans.values():
        for name in plan.names.flat:
            used[name] = used.get(name, 0) + plan.part
    tensors = folder.tensors
    left = [n for n in tensors if n not in used]
    left = [n for n in left if not any(fnmatch.fnmatchcase(n, pattern) for pattern in unread)]
    missing = used.keys() - tensors.keys()
    if left or missing:
        raise ValueError(
            f"the tensors must be those of the model; missing: {_some(missing)}; "
            f"not of the model: {_some(left)}. Compare the configuration with the weights."
        )
    for leaf, plan in plans.items():
        for name in plan.names.flat:
            info = tensors[name]
            if info.shape != plan.tensor_shape:
                raise ValueError(
                    f"tensor {name} must have shape {list(plan.tensor_shape)}; got "
                    f"{list(info.shape)} ({leaf}). Compare the configuration with the weights."
                )
            if not _may_cast(info.dtype, leaves[leaf].dtype):
                raise ValueError(
                    f"tensor {name} must be of a dtype that casts to {leaves[leaf].dtype} without "
                    f"a scale; got {info.dtype} ({leaf})."
                )
    partly = [n for n, count in used.items() if count < math.prod(tensors[n].shape)]
    if partly:
        raise ValueError(f"tensors must be used whole; used in part: {_some(partly)}.")


def load(
    folder: Tensors,
    wanted: Any,
    sources: Any,
    *,
    unread: Iterable[str] = (),
    convert: Callable[[str, jax.Array], Any] = lambda name, x: x,
) -> Any:
    """The tree of arrays that `wanted` describes, read from named tensors.

    Args:
      folder: an open safetensors folder or GGUF file.
      wanted: a tree of `jax.ShapeDtypeStruct`; one with a sharding is placed on its devices, each
        of which reads its own slice (several that hold the same slice read it once).
      sources: the same tree with a `Source` for each.
      unread: names of tensors, or patterns with `*`, that may be there and are not wanted.
      convert: (path, array) -> what stands for it in the tree, before the next one is read.

    Returns:
      The arrays. Floating dtypes are cast slice by slice to the wanted ones.

    Raises:
      ValueError: tensors are missing, not wanted, used in part, or of another shape or kind; before
        anything is read.
    """
    leaves, plans = trees.named_leaves(wanted), _plans(wanted, sources)
    _check(folder, plans, leaves, tuple(unread))

    def one(name: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        values = functools.partial(_values, folder, plans[name], np.dtype(leaf.dtype))
        return convert(name, _place(leaf, values))

    return trees.map_named(one, wanted)


def _values(folder: Tensors, plan: Plan, dtype: np.dtype, box: Box) -> np.ndarray:
    """A box of a parameter, on the host."""
    depth = plan.names.ndim
    out = np.empty([stop - start for start, stop in box], dtype)
    for at in np.ndindex(out.shape[:depth]):
        stacked = tuple(i + start for i, (start, _) in zip(at, box, strict=False))
        fill(out[(*at, ...)], plan.read(folder, plan.names[stacked], box[depth:]))
    return out


def _place(leaf: jax.ShapeDtypeStruct, values: Callable[[Box], np.ndarray]) -> jax.Array:
    """The array of one parameter, assembled device by device.

    `jax.make_array_from_callback` would hold the slices of all of this host's devices at once.
    """
    if leaf.sharding is None:
        whole = values([(0, size) for size in leaf.shape])
        return _checked(leaf, jax.device_put(whole).block_until_ready())
    where = leaf.sharding.addressable_devices_indices_map(leaf.shape)
    sharing: dict[tuple[tuple[int, int], ...], list[Any]] = {}
    for device, index in where.items():
        box = safetensors_io.bounds("a device's slice", leaf.shape, index or ())
        sharing.setdefault(tuple(box), []).append(device)
    by_device: dict[Any, jax.Array] = {}
    for part, devices in sharing.items():
        host = values(list(part))
        for device in devices:
            # Waits, so that no host copy outlives its turn.
            by_device[device] = jax.device_put(host, device).block_until_ready()
        del host
    return _checked(
        leaf,
        jax.make_array_from_single_device_arrays(
            leaf.shape, leaf.sharding, [by_device[device] for device in where], dtype=leaf.dtype
        ),
    )


def _checked(leaf: jax.ShapeDtypeStruct, array: jax.Array) -> jax.Array:
    if array.dtype != leaf.dtype:
        raise ValueError(f"a parameter must be of a dtype that jax holds; got {leaf.dtype}.")
    return array


def tensors_of(
    tree: Any, sources: Any, dtype: Any | Mapping[str, Any] = None
) -> list[safetensors_io.Tensor]:
    """The named tensors that a tree of arrays makes: what `write_folder` writes.

    The inverse of `load`: with the folder's dtypes, loading and writing gives its bytes again.

    Args:
      tree: arrays, on any layout of this process's devices.
      sources: the same tree with a `Source` for each.
      dtype: of all tensors, or by tensor name; that of the parameters where None or not named.

    Returns:
      (name, shape, dtype, get) of each tensor; `get()` makes its values on the host, from the
      parts of as many parameters as it holds.

    Raises:
      ValueError: parameters do not make up a tensor, or lie on devices of other processes.
    """
    leaves, plans = trees.named_leaves(tree), _plans(tree, sources)
    parts: dict[str, list[tuple[Plan, Any, tuple[int, ...]]]] = {}
    for leaf, plan in plans.items():
        array = leaves[leaf]
        if isinstance(array, jax.Array) and not array.is_fully_addressable:
            raise ValueError(f"parameters must lie on this process's devices; {leaf} does not.")
        for at in np.ndindex(plan.names.shape):
            parts.setdefault(str(plan.names[at]), []).append((plan, array, at))
    tensors: list[safetensors_io.Tensor] = []
    for name, pieces in parts.items():
        shapes = {plan.tensor_shape for plan, _, _ in pieces}
        shape = shapes.pop()
        if shapes or sum(plan.part for plan, _, _ in pieces) != math.prod(shape):
            raise ValueError(
                f"parameters must make up tensor {name} exactly once; got "
                f"{', '.join(plan.where for plan, _, _ in pieces)}."
            )
        own = dtype.get(name) if isinstance(dtype, Mapping) else dtype
        kind = np.dtype(pieces[0][1].dtype if own is None else own)
        tensors.append((name, shape, kind, functools.partial(_assemble, name, pieces, shape, kind)))
    return tensors


def _assemble(name: str, parts: list[Any], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A tensor assembled from its parts."""
    plan, array, at = parts[0]
    if len(parts) == 1 and plan.is_plain():
        return _at(array, at, dtype).reshape(shape)
    out = np.empty(shape, dtype)
    free = np.ones(shape, bool) if len(parts) > 1 else None
    for plan, array, at in parts:
        plan.write(_at(array, at, array.dtype), out)
        if free is not None:
            plan.view(free)[...] = False
    if free is not None and free.any():
        raise ValueError(f"parameters must make up tensor {name} without overlap.")
    return out


@jax.jit
def _pick(x: jax.Array, at: tuple[Any, ...]) -> jax.Array:
    for i in at:
        x = jax.lax.dynamic_index_in_dim(x, i, 0, keepdims=False)
    return x


def _at(array: Any, at: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """`array[at]` on the host, gathered from the devices that hold it; nothing else is copied."""
    if not isinstance(array, jax.Array):
        return np.asarray(array)[at].astype(dtype)
    out = np.empty(array.shape[len(at) :], dtype)
    done = set()
    for shard in array.addressable_shards:
        box = tuple(safetensors_io.bounds("a shard", array.shape, shard.index))
        held = all(start <= i < stop for i, (start, stop) in zip(at, box, strict=False))
        if held and box not in done:
            done.add(box)
            local = tuple(i - start for i, (start, _) in zip(at, box, strict=False))
            inner = tuple(slice(*b) for b in box[len(at) :])
            # The caller's mesh does not hold for one device's data. A new array, because
            # `np.asarray` of the shard itself would stay cached with the parameter.
            with jax.set_mesh(jax.make_mesh((1,), ("one",), devices=[shard.device])):
                out[inner] = np.asarray(_pick(shard.data, local))
    return out
