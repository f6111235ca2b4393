"""The device mesh: replica (across slices), data (batch and FSDP), model (tensor)."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

AXIS_NAMES = ("replica", "data", "model")


@dataclasses.dataclass(kw_only=True)
class MeshConfig:
    """Sizes of the mesh axes; -1 for one of them takes the devices that the others leave."""

    replica: int = 1  # slices, joined by the data-centre network
    data: int = -1  # batch and fully sharded parameters
    model: int = 1  # tensor parallelism: heads, feed-forward, vocabulary

    def validate(self) -> None:
        sizes = (self.replica, self.data, self.model)
        if any(s < 1 and s != -1 for s in sizes) or sizes.count(-1) > 1:
            raise ValueError(
                f"mesh sizes must be >= 1, at most one of them -1; got {sizes} (mesh). "
                "Set mesh.replica, mesh.data, mesh.model."
            )


def shape(config: MeshConfig, devices: int) -> tuple[int, int, int]:
    """The three axis sizes for a number of devices.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
    """
    config.validate()
    sizes = [config.replica, config.data, config.model]
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(devices // -math.prod(sizes), 1)
    if math.prod(sizes) != devices:
        raise ValueError(
            f"mesh (replica, data, model) = {tuple(sizes)} must multiply to the number of devices; "
            f"got {devices} devices (mesh). Change the sizes or set mesh.data=-1."
        )
    return sizes[0], sizes[1], sizes[2]


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh | None:
    """The mesh in explicit mode, or None where there is one device: nothing needs a layout then."""
    devices = list(jax.devices() if devices is None else devices)
    sizes = shape(config, len(devices))
    if len(devices) == 1:
        return None
    return jax.make_mesh(
        sizes, AXIS_NAMES, axis_types=(AxisType.Explicit,) * len(AXIS_NAMES), devices=devices
    )


@contextlib.contextmanager
def use(mesh: Mesh | None) -> Iterator[None]:
    """The mesh as the context of everything traced inside; None is no mesh."""
    if mesh is None:
        yield
        return
    with jax.set_mesh(mesh):
        yield
