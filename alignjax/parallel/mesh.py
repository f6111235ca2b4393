"""The device mesh: replica (across slices), data (batch, FSDP), model (tensor), expert, seq."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from alignjax.core import errors

AXIS_NAMES = ("replica", "data", "model")  # of every mesh
EXTRA_NAMES = ("expert", "seq")  # of a mesh that has such parallelism


@dataclasses.dataclass(kw_only=True)
class MeshConfig:
    """Sizes of the mesh axes; -1 for one of them takes the devices that the others leave."""

    replica: int = 1  # slices, joined by the data-centre network
    data: int = -1  # batch and fully sharded parameters
    model: int = 1  # tensor parallelism: heads, feed-forward, vocabulary
    expert: int = 1  # experts of a layer; outside those layers a part of the batch
    seq: int = 1  # context parallelism: the times of a row's states; attention gathers the keys

    def validate(self) -> None:
        sizes = tuple(getattr(self, name) for name in names(self))
        if any(s < 1 and s != -1 for s in sizes) or sizes.count(-1) > 1:
            raise ValueError(
                f"mesh sizes must be >= 1, at most one of them -1; got {sizes} (mesh). "
                f"Set {', '.join(f'mesh.{name}' for name in names(self))}."
            )


def names(config: MeshConfig) -> tuple[str, ...]:
    """The mesh's axes: `expert` and `seq` only where there is such parallelism."""
    return (*AXIS_NAMES, *(name for name in EXTRA_NAMES if getattr(config, name) != 1))


def shape(config: MeshConfig, devices: int) -> tuple[int, ...]:
    """The axis sizes for a number of devices, in the order of `names`.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
    """
    config.validate()
    order = names(config)
    sizes = [getattr(config, name) for name in order]
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(devices // -math.prod(sizes), 1)
    if math.prod(sizes) != devices:
        raise ValueError(
            f"mesh ({', '.join(order)}) = {tuple(sizes)} must multiply to the number of devices; "
            f"got {devices} devices (mesh). Change the sizes or set mesh.data=-1."
        )
    return tuple(sizes)


def present() -> list[Any]:
    """The devices of the platform that JAX is told to use.

    Raises:
      ValueError: there is no such device here.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # as JAX says it, which depends on the platform
        raise ValueError(
            "JAX_PLATFORMS must name devices that are here; got "
            f"{os.environ.get('JAX_PLATFORMS', '')!r}, {errors.condense(error)} (mesh). Unset it, "
            "or install JAX for that device."
        ) from error


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh | None:
    """The mesh in explicit mode, or None where there is one device: nothing needs a layout then.

    Of several slices each holds whole replicas, so that only their sums cross the network.

    Raises:
      ValueError: the sizes do not multiply to the devices, or the replicas do not fill the slices,
        or the devices belong to several hosts whose processes have not joined.
    """
    if devices is None:
        devices = present()
        if jax.process_count() > 1 and not jax.distributed.is_initialized():
            raise ValueError(
                "the processes on the hosts of a slice must be joined; got "
                f"{jax.process_count()} that each run on their own (mesh). Start the same command "
                "on every host with --coordinator=auto."
            )
    devices = list(devices)
    sizes, order = shape(config, len(devices)), names(config)
    if len(devices) == 1:
        return None
    types = (AxisType.Explicit,) * len(order)
    # Only TPU slices are what a mesh must follow; a single slice's devices may have no number.
    slices = len({getattr(d, "slice_index", 0) if d.platform == "tpu" else 0 for d in devices})
    if slices == 1:
        try:
            return jax.make_mesh(sizes, order, axis_types=types, devices=devices)
        except NotImplementedError:  # an axis that is no whole dimension of the slice's torus
            grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
            return Mesh(grid, order, axis_types=types)
    if sizes[0] % slices:
        raise ValueError(
            f"mesh.replica must be a multiple of the slices, whose network joins the replicas; got "
            f"{sizes[0]} for {slices} slices (mesh). Set mesh.replica={slices}."
        )
    inner, outer = (sizes[0] // slices, *sizes[1:]), (slices, *(1 for _ in sizes[1:]))
    grid = mesh_utils.create_hybrid_device_mesh(
        inner, outer, devices, allow_split_physical_axes=True
    )
    return Mesh(grid, order, axis_types=types)


def for_sampling(mesh: Mesh, model: int) -> Mesh:
    """The same devices with a model axis of this size, the rest of each replica on the data axis.

    Training gathers weights over the data axis, once for many tokens; decoding would do it for each
    token, and wants them in parts instead. An expert axis stays: what latents and routers compute
    is not in parts of the model axis. Neighbours in the mesh stay neighbours.

    Raises:
      ValueError: the size does not divide a replica's devices, those of other experts left out.
    """
    replicas, experts = mesh.shape["replica"], mesh.shape.get("expert", 1)
    devices = mesh.size // replicas // experts
    if devices % model:
        other = f" with the same of {experts} parts of the experts" if experts > 1 else ""
        raise ValueError(
            f"sampling.model_axis must divide the {devices} devices of a replica{other}; got "
            f"{model} (algorithm.sampling). Use a divisor."
        )
    grid, sizes = mesh.devices, [replicas, devices // model, model]
    order: tuple[str, ...] = AXIS_NAMES
    if experts > 1:
        grid = np.moveaxis(grid, list(mesh.shape).index("expert"), -1)
        sizes, order = [*sizes, experts], (*AXIS_NAMES, "expert")
    return Mesh(grid.reshape(sizes), order, axis_types=(AxisType.Explicit,) * len(order))


@contextlib.contextmanager
def use(mesh: Mesh | None) -> Iterator[None]:
    """The mesh as the context of everything traced inside; None is no mesh."""
    if mesh is None:
        yield
        return
    with jax.set_mesh(mesh):
        yield
