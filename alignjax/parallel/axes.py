"""The logical axes of every array, and the three verbs that place arrays on the mesh by them.

With no mesh (a laptop, Colab) every verb is the plain operation: the same model code runs there.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import layout
from jax.sharding import PartitionSpec, get_abstract_mesh

# Logical axis -> mesh axes. `embed` is the width of activations; `fsdp` is the same dimension in a
# stored parameter, which the data axis shards until the parameter is used. `time` is that of
# states; keys, and arrays of one number a token, have all `slot`s of their row on each device.
RULES: dict[str, tuple[str, ...]] = {
    "batch": ("replica", "data", "expert"),
    "fsdp": ("data", "seq"),
    "latent": ("data", "seq"),  # the rank of a latent that a parameter reads, as `fsdp` its width
    "kv": ("model",),
    "ff": ("model",),
    "vocab": ("model",),
    "experts": ("expert",),
    "route": (),
    "embed": (),
    "group": (),
    "head": (),
    "layers": (),
    "time": ("seq",),
    "slot": (),
    "row": ("replica", "data", "expert", "seq"),  # batch and time in one
    "rank": (),
    "choice": (),
}


def has_mesh() -> bool:
    """Whether a mesh is set."""
    return not get_abstract_mesh().empty


def devices() -> int:
    """How many devices the current mesh has; 1 without a mesh."""
    mesh = get_abstract_mesh()
    return 1 if mesh.empty else mesh.size


def axis_size(name: str) -> int:
    """Number of shards of a logical axis on the current mesh; 1 without a mesh."""
    mesh = get_abstract_mesh()
    return math.prod(mesh.shape[a] for a in mesh_axes(name))


_PLATFORM: contextvars.ContextVar[str] = contextvars.ContextVar("platform", default="")


@contextlib.contextmanager
def on(platform: str) -> Iterator[None]:
    """What is traced inside is for this platform: of one device that is not here no mesh tells."""
    token = _PLATFORM.set(platform)
    try:
        yield
    finally:
        _PLATFORM.reset(token)


def platform() -> str:
    """What programs traced here run on: "cpu", "gpu" or "tpu"; the mesh's devices if there are."""
    device = get_abstract_mesh().abstract_device
    return (_PLATFORM.get() or jax.default_backend()) if device is None else device.platform


_WHOLE: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("whole", default=())


@contextlib.contextmanager
def whole(name: str) -> Iterator[None]:
    """A logical axis that nothing traced inside shards: time, where rows have one token each."""
    token = _WHOLE.set((*_WHOLE.get(), name))
    try:
        yield
    finally:
        _WHOLE.reset(token)


def mesh_axes(name: str) -> tuple[str, ...]:
    """The axes of the current mesh that shard a logical axis; none without a mesh."""
    if name in _WHOLE.get():
        return ()
    return tuple(a for a in RULES[name] if a in get_abstract_mesh().shape)


def spec(names: str) -> PartitionSpec:
    """The PartitionSpec of "batch time embed" on the current mesh.

    Raises:
      ValueError: an axis is unknown, or two axes of the array want the same mesh axis.
    """
    entries: list[Any] = []
    taken: dict[str, str] = {}
    for name in names.split():
        if name not in RULES:
            raise ValueError(f"Unknown logical axis {name!r}; the axes are {', '.join(RULES)}.")
        axes = mesh_axes(name)
        for axis in axes:
            if axis in taken:
                raise ValueError(
                    f"Axes {taken[axis]!r} and {name!r} of {names!r} both want mesh axis {axis!r}."
                )
            taken[axis] = name
        entries.append(axes[0] if len(axes) == 1 else (axes or None))
    return PartitionSpec(*entries)


def shard(x: jax.Array, names: str) -> jax.Array:
    """`x` laid out by its logical axes: moves data where it must, else does nothing."""
    if not has_mesh():
        return x
    return jax.sharding.reshard(x, spec(names))


def gather(weight: jax.Array, names: str, out: str) -> jax.Array:
    """A stored weight laid out for use by its logical axes; its gradient returns by reduce-scatter.

    out: the logical axes of the product. Over the mesh axes that divide its tokens and not the
    weight, the gradient stays a sum of parts until it is back in the stored layout; laid out by
    `shard` it would be summed whole on every device.
    """
    if not has_mesh():
        return weight
    where = spec(names)
    taken = {a for entry in where for a in (entry if isinstance(entry, tuple) else (entry,))}
    tokens = [name for name in out.split() if name in ("batch", "time")]
    idle = {a for name in tokens for a in mesh_axes(name)} - taken if devices() > 1 else set()
    return jax.sharding.reshard(weight, PartitionSpec(*where, reduced=idle))


def used(names: str) -> str:
    """The logical axes of a stored parameter as it is used, without the data axis's parts."""
    whole_ones = {"fsdp": "embed", "latent": "route"}
    return " ".join(whole_ones.get(name, name) for name in names.split())


def stored_width(weight: jax.Array, names: str) -> str:
    """The logical axes of a weight with `embed` called `fsdp` where it may come in parts.

    It is in parts now, and devices that hold different parts have different tokens: only then is
    it gathered, and its gradient summed, over these devices.
    """
    order = names.split()
    tokens = {a for name in ("batch", "time") for a in mesh_axes(name)}
    parted = has_mesh() and jax.typeof(weight).sharding.spec[order.index("embed")] is not None
    if parted and tokens.issuperset(mesh_axes("fsdp")):
        order[order.index("embed")] = "fsdp"
    return " ".join(order)


def einsum(equation: str, a: jax.Array, b: jax.Array, out: str, dtype: Any = None) -> jax.Array:
    """`jnp.einsum` of two arrays whose result is laid out by `out`; accumulates in `dtype`."""
    where = spec(out) if has_mesh() else None
    return jnp.einsum(equation, a, b, out_sharding=where, preferred_element_type=dtype)


def reshape(x: jax.Array, shape: tuple[int, ...], out: str) -> jax.Array:
    """`x.reshape(shape)`, laid out by `out`."""
    return jnp.reshape(x, shape, out_sharding=spec(out) if has_mesh() else None)


def take(table: jax.Array, ids: jax.Array, out: str) -> jax.Array:
    """`table[ids]` along the table's first axis, laid out by `out`."""
    where = spec(out) if has_mesh() else None
    return table.at[ids].get(out_sharding=where, mode="clip")


def in_memory(x: jax.Array, order: tuple[int, ...]) -> jax.Array:
    """`x` with its axes in this order in a TPU's memory, the last one innermost; the same values.

    Elsewhere compilers choose well.
    """
    if platform() != "tpu":
        return x
    return layout.with_layout_constraint(x, layout.Layout(order))


def per_shard(
    f: Callable[..., Any], inputs: Any, outputs: Any, *, replication: bool = True
) -> Callable[..., Any]:
    """`f` run on every device's own part of its arguments; collectives join what it needs.

    inputs, outputs: logical axes of each array, as a tree of strings (a tuple for the arguments);
    a PartitionSpec stands for itself. replication: whether JAX checks the replication of f's
    results, which it can't for kernels.
    Without a mesh it is `f` itself: `mesh_axes` is empty there, so there is nothing to join.
    """
    if not has_mesh():
        return f
    where = jax.tree.map(lambda x: spec(x) if isinstance(x, str) else x, (inputs, outputs))
    return jax.shard_map(f, in_specs=where[0], out_specs=where[1], check_vma=replication)
