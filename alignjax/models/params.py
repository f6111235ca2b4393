"""Parameters declared with their shape, logical axes and initial distribution."""

import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import trees
from alignjax.parallel import axes


class ParamInfo(NamedTuple):
    """One parameter before it exists.

    shape: sizes. axes: logical axis names, one a dimension. stddev: of a normal distribution; 0
    is all zeros, -1 all ones (norm scales), and NaN all NaN: what begins as another weight's copy.
    """

    shape: tuple[int, ...]
    axes: str
    stddev: float


def is_info(x: Any) -> bool:
    """Whether a node of a declared tree is a parameter."""
    return isinstance(x, ParamInfo)


def with_info(f: Callable[[ParamInfo | None, Any], Any], infos: Any, tree: Any) -> Any:
    """f(info, part) over a declared tree and one like it.

    info is None where nothing is declared: `part` is None then, or what an adapter put there.
    """
    return jax.tree.map(f, infos, tree, is_leaf=lambda x: x is None or is_info(x))


def init(infos: Any, key: jax.Array, dtype: Any) -> Any:
    """Arrays for a tree of ParamInfo. Each leaf's key comes from its path name, so adding a
    parameter does not change the others."""

    def make(name: str, info: ParamInfo) -> jax.Array:
        if info.stddev == -1:
            value = jnp.ones(info.shape, dtype)
        elif math.isnan(info.stddev):
            value = jnp.full(info.shape, jnp.nan, dtype)
        elif info.stddev == 0:
            value = jnp.zeros(info.shape, dtype)
        else:
            leaf_key = jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)
            # Each device draws its own part: a whole leaf of a large model fits on none.
            if axes.has_mesh():
                where = axes.spec(info.axes)
                normal = jax.random.normal(leaf_key, info.shape, out_sharding=where)
            else:  # the same bits, by a program that compiles in a quarter of the time
                normal = jax.random.normal(leaf_key, (math.prod(info.shape),)).reshape(info.shape)
            value = (info.stddev * normal).astype(dtype)
        return axes.shard(value, info.axes)

    return trees.map_named(make, infos, is_leaf=is_info)


def place(values: np.ndarray, info: ParamInfo) -> jax.Array:
    """Host values as a parameter in fp32, in the layout that is declared.

    Raises:
      ValueError: they have another shape.
    """
    array = jnp.asarray(values, jnp.float32)
    if array.shape != info.shape:
        raise ValueError(f"an adapter must have the model's sizes; got {array.shape}.")
    return axes.shard(array, info.axes)
