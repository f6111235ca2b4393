"""Normalisation, linear maps and the gated MLP."""

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import struct
from alignjax.parallel import axes


def rms_norm(
    x: jax.Array, scale: jax.Array | None, eps: float, *, plus_one: bool = False
) -> jax.Array:
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, computed in fp32.

    scale: [D], None for 1; with `plus_one` the factor is 1 + scale.
    Reference: Zhang and Sennrich 2019, equation 4.
    """
    wide = x.astype(jnp.float32)
    normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    if scale is not None:
        normed = normed * (scale.astype(jnp.float32) + (1.0 if plus_one else 0.0))
    return normed.astype(x.dtype)


class Operator:
    """What may stand where a matrix does: a weight with an adapter."""

    def product(
        self, equation: str, x: jax.Array, *, stored: str, out: str, bias: Any = None
    ) -> jax.Array:
        """`linear` with this weight."""
        raise NotImplementedError


# A matrix. A declared tree has a ParamInfo in the place of each array, which the fields' types pass
# over, as they do the strings and layouts of trees that are mapped from it.
Weight = jax.Array | Operator
UNBOUND: Any = None  # what an adapter gets when it is joined with its base


def linear(
    equation: str, x: jax.Array, weight: Weight, *, stored: str, out: str, bias: Any = None
) -> jax.Array:
    """einsum(equation, x, weight) + bias, laid out by `out`.

    stored: the weight's logical axes when it is used, that is without the data axis's shards.
    """
    if isinstance(weight, Operator):
        return weight.product(equation, x, stored=stored, out=out, bias=bias)
    result = axes.einsum(equation, x, axes.gather(weight, stored, out), out=out)
    return result if bias is None else result + bias


def cast(weights: Any, dtype: Any) -> Any:
    """Weights for use in `dtype`; keys and numbers of rows stay what they are."""
    return jax.tree.map(
        lambda w: w.astype(dtype) if jnp.issubdtype(w.dtype, jnp.floating) else w, weights
    )


@struct.pytree
class Mlp:
    """Weights of a gated MLP: gate, up [D, F]; down [F, D]; biases or None."""

    gate: Weight
    up: Weight
    down: Weight
    gate_bias: jax.Array | None = None
    up_bias: jax.Array | None = None
    down_bias: jax.Array | None = None


def activation(name: str, x: jax.Array) -> jax.Array:
    """silu, or gelu in its tanh form."""
    return jax.nn.silu(x) if name == "silu" else jax.nn.gelu(x, approximate=True)


def gated_mlp(weights: Mlp, x: jax.Array, act: str) -> jax.Array:
    """(act(x gate) * (x up)) down, x [B, T, D].

    Reference: Shazeer 2020, equation 6 (SwiGLU, GEGLU).
    """
    into = {"stored": "embed ff", "out": "batch time ff"}
    gate = linear("btd,df->btf", x, weights.gate, bias=weights.gate_bias, **into)
    up = linear("btd,df->btf", x, weights.up, bias=weights.up_bias, **into)
    return linear(
        "btf,fd->btd",
        activation(act, gate) * up,
        weights.down,
        bias=weights.down_bias,
        stored="ff embed",
        out="batch time embed",
    )
