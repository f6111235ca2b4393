"""The structure in which a checkpoint's item was saved, as shapes to restore into."""

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from alignjax.core import errors, trees


def placed(abstract: Any) -> Any:
    """Shapes with a sharding each: Orbax restores straight into that layout."""
    mesh = jax.sharding.get_mesh()

    def place(x: Any) -> jax.ShapeDtypeStruct:
        if mesh.empty:
            sharding: Any = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        else:
            sharding = jax.sharding.NamedSharding(mesh, jax.typeof(x).sharding.spec)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(place, abstract)


def as_stored(folder: pathlib.Path, own: Any) -> Any:
    """The shapes of a tree, each in its layout, in the structure that an item was saved in.

    It may lack what was added since and holds nothing here: an optional weight that is None.

    Raises:
      errors.Failure: as of `read`, or the item holds other leaves.
    """
    leaves, stored = trees.named_leaves(placed(own)), read(folder)
    other = sorted(leaves.keys() ^ trees.named_leaves(stored).keys())
    if other:
        raise errors.Failure(f"files are damaged (their structure is of other leaves: {other[0]})")
    return trees.map_named(lambda name, _: leaves[name], stored)


def read(folder: pathlib.Path) -> Any:
    """The shapes that an item holds, each spread over the devices of this machine.

    Without them Orbax wants the devices on which the item was saved.

    Raises:
      errors.Failure: the files that tell of the structure are damaged.
    """
    try:
        stored = ocp.StandardCheckpointHandler().metadata(folder)
    except Exception as error:  # whatever its parsers raise of bytes that they do not understand
        raise errors.Failure(f"files are damaged ({errors.condense(error)})") from error
    mesh = jax.sharding.get_mesh()

    def place(x: Any) -> jax.ShapeDtypeStruct:
        if mesh.empty:
            sharding: Any = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        else:
            fitting = [axis for axis, size in enumerate(x.shape) if size % mesh.size == 0]
            spec = [None] * fitting[0] + [mesh.axis_names] if fitting else []
            sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(place, stored.tree, is_leaf=lambda x: hasattr(x, "shape"))
