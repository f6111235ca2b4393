"""What every loss does on entry: shapes checked, numbers in fp32, masked entries out of the way."""

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import shapes

MAX_LOG_RATIO = 20.0  # nats; e^20 = 4.9e8, far beyond any ratio that carries information


def as_float(x: jax.typing.ArrayLike) -> jax.Array:
    """`x` in fp32; float64 stays as it is."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def arrays(dims: str, **named: jax.Array) -> list[jax.Array]:
    """The named arrays in fp32, after checking that all have the axes of `dims` with equal sizes.

    Raises:
      ValueError: a rank or a size differs; the message names the argument.
    """
    sizes: dict[str, int] = {}
    for name, x in named.items():
        sizes = shapes.check(name, x, dims, sizes)
    return [as_float(x) for x in named.values()]


def mask_of(mask: jax.Array | None, like: jax.Array, dims: str, name: str = "mask") -> jax.Array:
    """The mask as booleans of the shape of `like`; None counts everything.

    Raises:
      ValueError: wrong shape, or a mask of known values that holds others than 0 and 1. Inside jit
        the values of an argument are not known.
    """
    if mask is None:
        return jnp.ones_like(like, dtype=bool)
    shapes.check(name, mask, dims, shapes.check("values", like, dims))
    known = not isinstance(mask, jax.core.Tracer) and getattr(mask, "is_fully_addressable", True)
    if known and (numbers := np.asarray(mask)).dtype != np.bool_:
        wrong = numbers[(numbers != 0) & (numbers != 1)]
        if wrong.size:
            raise ValueError(f"{name} must hold only 0 and 1 or booleans; got {wrong[0]}.")
    return jnp.asarray(mask) != 0


def masked(dims: str, mask: jax.Array | None, **named: jax.Array) -> list[jax.Array]:
    """[mask, *arrays]: as `arrays`, with 0 in every masked entry, so that it never reaches a loss.

    A NaN or an infinity in a masked entry changes neither the loss nor the gradient.
    """
    values = arrays(dims, **named)
    keep = mask_of(mask, values[0], dims)
    return [keep, *[jnp.where(keep, x, 0.0) for x in values]]


def count(
    mask: jax.Array, axis: int | tuple[int, ...] = -1, *, keepdims: bool = False
) -> jax.Array:
    """Number of counted entries along `axis`, at least 1, so that it can divide."""
    return jnp.maximum(jnp.sum(mask.astype(jnp.float32), axis=axis, keepdims=keepdims), 1.0)


def gathered(x: jax.Array, axis: int | None = None) -> jax.Array:
    """`x` unsharded along `axis`, or along all: sorting and recurrences over time need that.

    `x` itself without a mesh. The arrays are [B, T] at most, small beside any activation.
    """
    spec = tuple(jax.typeof(x).sharding.spec)
    whole = [None if axis is None or i == axis % x.ndim else name for i, name in enumerate(spec)]
    return x if spec == tuple(whole) else jax.sharding.reshard(x, jax.P(*whole))


def spread_like(x: jax.Array, like: jax.Array) -> jax.Array:
    """`x` with the axes of `like`, of the same shape: undoes `gathered`."""
    spec = jax.typeof(like).sharding.spec
    return x if jax.typeof(x).sharding.spec == spec else jax.sharding.reshard(x, spec)


def safe_log_ratio(logprobs: jax.Array, other: jax.Array) -> jax.Array:
    """logprobs - other in nats, within +-MAX_LOG_RATIO so that exp is safe; no gradient beyond."""
    return jnp.clip(logprobs - other, -MAX_LOG_RATIO, MAX_LOG_RATIO)


def log1mexp(x: jax.Array) -> jax.Array:
    """log(1 - exp(x)) for x <= 0, finite at 0 (x is kept below -1e-6), accurate at both ends.

    Machler (2012), "Accurately computing log(1 - exp(-|a|))": switch at log 2.
    """
    x = jnp.minimum(x, -1e-6)
    near = x > -0.6931472
    return jnp.where(
        near,
        jnp.log(-jnp.expm1(x)),
        jnp.log1p(-jnp.exp(jnp.where(near, -1.0, x))),
    )
