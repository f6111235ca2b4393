"""Machines by name: a TPU slice that is not here, GPUs, or this host's CPU as several devices."""

import contextlib
import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

import jax

GIB = 2**30


class Chip(NamedTuple):
    """One device's published figures; 0 where there are none.

    hbm: bytes. bandwidth: of HBM, bytes/s. flops: bf16 FLOP/s. link: one way of one link, bytes/s.
    dims: torus dimensions, each with a link either way.
    """

    name: str
    hbm: float = 0.0
    bandwidth: float = 0.0
    flops: float = 0.0
    link: float = 0.0
    dims: int = 1
    clock: float = 0.0  # Hz of the compiler's cycles: flops over the matrix units' FLOPs a cycle
    options: tuple[tuple[str, bool | int], ...] = ()  # of the compiler, for runs of any length

    @property
    def init_args(self) -> str:
        """The options as a real run gives them to libtpu, in LIBTPU_INIT_ARGS."""
        return " ".join(f"--{name}={str(value).lower()}" for name, value in self.options)


# Fast memory that a fusion may use, of 128 MiB; the defaults are 16 and 32 MiB. With more, a matrix
# product reads its tiles fewer times, and what a decoding step streams from HBM comes faster.
VMEM = "xla_tpu_scoped_vmem_limit_kib"
V5E_OPTIONS = ((VMEM, 32768),)

# Without these the compiler gathers weights as blocking sums of arrays that are mostly zeros, and
# sums gradients whole; sparse cores gather and reduce-scatter beside the computation. libtpu
# refuses options that a chip does not have.
SPARSE_CORES = (
    ("xla_tpu_enable_sparse_core_collective_offload_all_gather", True),
    ("xla_tpu_enable_sparse_core_collective_offload_reduce_scatter", True),
    ("xla_tpu_enable_sparse_core_collective_offload_nd_reduce_scatter", True),
    ("xla_tpu_prefer_async_allgather_to_allreduce", True),
    ("xla_enable_async_all_gather", True),
    ("xla_tpu_enable_async_collective_fusion_fuse_all_gather", False),
)
V5P_OPTIONS = (
    *SPARSE_CORES,
    ("xla_tpu_enable_sparse_core_collective_offload_3d_all_gather", True),
)
V6E_OPTIONS = (
    *SPARSE_CORES,
    ("xla_tpu_enable_sparse_core_collective_offload_2d_all_gather", True),
    (VMEM, 98304),
)

# Vendors' public pages. A v4 or v5p device is a whole chip; tpu7x counts two devices a chip.
CHIPS = {
    "v4": Chip("TPU v4", 32 * GIB, 1.2e12, 275e12, 45e9, 3, 1.05e9),
    "v5e": Chip("TPU v5e", 16 * GIB, 0.81e12, 197e12, 45e9, 2, 1.5e9, V5E_OPTIONS),
    "v5p": Chip("TPU v5p", 95 * GIB, 2.765e12, 459e12, 90e9, 3, 1.75e9, V5P_OPTIONS),
    "v6e": Chip("TPU v6e", 32 * GIB, 1.64e12, 918e12, 90e9, 2, 1.75e9, V6E_OPTIONS),
    "tpu7x": Chip("TPU7x core", 96 * GIB, 3.69e12, 1153.5e12, 90e9, 3, 0.0),
}
# Cloud TPU's types, and what a chip counts in their numbers: v4 and v5p are counted by cores.
TYPES = {"v4": ("v4", 2), "v5e": ("v5litepod", 1), "v5p": ("v5p", 2), "v6e": ("v6e", 1)}
GPUS = {
    "cuda": Chip("H100 SXM", 80e9, 3.35e12, 989e12, 450e9),
    "a100": Chip("A100 SXM", 80e9, 2.0e12, 312e12, 300e9),
    "h100": Chip("H100 SXM", 80e9, 3.35e12, 989e12, 450e9),
    "h200": Chip("H200 SXM", 141e9, 4.8e12, 989e12, 450e9),
}
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
MOST = 9216  # chips of the largest slice that is built (tpu7x; of v5p it is 8,960)
LEGAL = (
    f"v5e:, v6e: with {', '.join(FLAT)}; v4:, v5p:, tpu7x: with three sizes, such as "
    f"{', '.join(CUBES)}; {', '.join(f'{name}:N' for name in GPUS)}; cpu:N"
)
NETWORK = 6.25e9  # bytes/s of one chip between slices: 100 Gbit/s a host of 4 chips, halved


class Machine(NamedTuple):
    """name: as given. slices: how many. chip: what one device is. devices: to compile for.

    kind: tpu | gpu | cpu. here: whether the programs are those of the machine itself, not of the
    CPU in its place.
    """

    name: str
    slices: int
    chip: Chip
    kind: str
    devices: Any
    here: bool = True

    @property
    def accelerator_type(self) -> str:
        """What a slice is called where it is rented: v5p-128 has 64 chips; "" if by no type."""
        kind, _, size = self.name.partition(":")
        name, counted = TYPES.get(kind, ("", 0))
        return f"{name}-{counted * math.prod(int(x) for x in size.split('x'))}" if name else ""


def unknown(name: str) -> ValueError:
    """The error for a machine that is none of the legal ones."""
    return ValueError(f"--topology must be one of {LEGAL}; got {name!r}.")


def find(name: str, slices: int = 1) -> Machine:
    """The machine of a name: "v5e:4x4", "cuda:8", "cpu:8". No device of another kind is started.

    Raises:
      ValueError: an unknown name, several slices of what has none, or libtpu is missing.
    """
    kind, _, size = name.partition(":")
    if slices < 1:
        raise ValueError(f"--slices must be >= 1; got {slices}.")
    if kind in CHIPS:
        if not re.fullmatch(r"[1-9]\d{0,2}x[1-9]\d{0,2}(x[1-9]\d{0,2})?", size):
            raise unknown(name)
        flat = CHIPS[kind].dims == 2
        chips = math.prod(int(x) for x in size.split("x"))
        if (flat and size not in FLAT) or (not flat and (size.count("x") != 2 or chips > MOST)):
            raise unknown(name)
        return _tpu(name, slices, CHIPS[kind])
    if kind not in (*GPUS, "cpu") or not re.fullmatch(r"[1-9]\d{0,2}", size):
        raise unknown(name)
    if slices > 1:
        raise ValueError(f"--slices must be 1 for {kind}, which has no slices; got {slices}.")
    devices = _cpu_devices(int(size))
    if kind == "cpu":
        return Machine(name, 1, Chip("CPU device"), "cpu", devices)
    return Machine(name, 1, GPUS[kind], "gpu", devices, here=False)


def _cpu_devices(count: int) -> list[Any]:
    """The first CPU devices of this process; as many as asked where JAX has not started yet."""
    jax.config.update("jax_platforms", "cpu")
    with contextlib.suppress(RuntimeError):  # JAX has started: what it has must do
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise ValueError(
            f"--topology must have at most the {len(devices)} CPU devices of this process; got "
            f"{count}. Unset XLA_FLAGS, or set it to "
            f"--xla_force_host_platform_device_count={count}."
        )
    return list(devices[:count])


def _tpu(name: str, slices: int, chip: Chip) -> Machine:
    """The devices of TPU slices, made up by libtpu: nothing is looked for on this host."""
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"--topology={name} must have libtpu, the TPU's compiler; it is not installed. "
            "Install alignjax[tpu-plan], or use cpu:N."
        )
    quiet = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    for key, value in quiet.items():
        os.environ.setdefault(key, value)
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if chip.name == "TPU v4":
        options["chip_config_name"] = "megacore"  # one device a chip, as a v4's runtime has it
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except Exception as error:  # libtpu raises errors of several kinds for sizes that it lacks
        raise ValueError(
            f"--topology must be a slice that libtpu knows; got {name!r}, of which it says: "
            f"{' '.join(str(error).split())[:200]}. The legal ones are {LEGAL}."
        ) from error
    return Machine(name, slices, chip, "tpu", list(description.devices))
