"""Normalisation, linear maps and the gated MLP."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import struct
from alignjax.parallel import axes


def rms_norm(
    x: jax.Array, scale: jax.Array | None, eps: float, *, plus_one: bool = False, over: int = 1
) -> jax.Array:
    """x / sqrt(mean(x^2) + eps) * scale over the last axis, or the last `over`, computed in fp32.

    scale: of the shape of those axes, None for 1; with `plus_one` the factor is 1 + scale.
    Reference: Zhang and Sennrich 2019, equation 4.
    """
    wide = x.astype(jnp.float32)
    last = tuple(range(-over, 0))
    normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=last, keepdims=True) + eps)
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

    @property
    def absorbs(self) -> bool:
        """Whether there is `absorbed` of it."""
        return False

    def absorbed(self, equation: str, x: jax.Array, *, stored: str, out: str) -> jax.Array:
        """The same map [R, K, H] from its other side, or head by head: `mla.absorbs`."""
        raise NotImplementedError


class Table(Operator):
    """What may stand where the embedding [V, D] does."""

    def rows(self, tokens: jax.Array, dtype: Any) -> jax.Array:
        """[B, T, D] of tokens [B, T]."""
        raise NotImplementedError

    @property
    def ties(self) -> bool:
        """Whether a tied unembedding is this table, turned; else it is the base's."""
        return False

    def turned(self) -> jax.Array:
        """[D, V], the matrix of a tied unembedding."""
        raise NotImplementedError


class Head(Operator):
    """What may stand where the unembedding [D, V] does."""

    def matrix(self, tied: jax.Array) -> jax.Array:
        """[D, V] fp32. tied: the table that a tied model turns, [D, V]."""
        raise NotImplementedError


class Coded(Operator):
    """A frozen matrix in few bits: `whole` makes it, once for each product.

    Its gradient makes it again: what a layer kept of it would be the model in full. No cast
    touches its numbers.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the matrix, with its stacked axes."""
        raise NotImplementedError

    @property
    def dtype(self) -> Any:
        """Of the numbers that it stands for."""
        raise NotImplementedError

    def whole(self, dtype: Any) -> jax.Array:
        """The matrix."""
        raise NotImplementedError

    def laid_out(self, lead: str, inputs: str, outputs: str) -> Any:
        """The axes of each of its arrays, for experts."""
        raise NotImplementedError

    def used(self, product: Any, x: jax.Array) -> jax.Array:
        """product(x, the matrix in x's dtype)."""

        def run(x: jax.Array, coded: "Coded") -> jax.Array:
            # Codes that wait for their rows stay codes: a compiler would take what each step of
            # a loop makes of them out of the loop, and keep it.
            held = jax.lax.optimization_barrier((coded, jax.lax.stop_gradient(x)))[0]
            return product(x, held.whole(x.dtype))

        return jax.checkpoint(run)(x, self)

    def product(
        self, equation: str, x: jax.Array, *, stored: str, out: str, bias: Any = None
    ) -> jax.Array:
        return self.used(
            lambda x, whole: linear(equation, x, whole, stored=stored, out=out, bias=bias), x
        )

    @property
    def absorbs(self) -> bool:
        return True

    def absorbed(self, equation: str, x: jax.Array, *, stored: str, out: str) -> jax.Array:
        return self.product(equation, x, stored=stored, out=out)

    def grouped(self, rows: jax.Array, sizes: jax.Array) -> jax.Array:
        """[N, outputs] of rows [N, inputs] in runs, one an expert, of these sizes [E]."""
        return self.used(lambda rows, whole: jax.lax.ragged_dot(rows, whole, sizes), rows)


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
    result = _product(equation, x, axes.gather(weight, stored, out), out)
    return result if bias is None else result + bias


def _product(equation: str, x: jax.Array, weight: jax.Array, out: str) -> jax.Array:
    """The einsum, as a product of two matrices where it is one and runs on a single CPU device.

    XLA's CPU backend sums a weight's gradient over two axes of tokens by way of transposed copies:
    a gated MLP's gradient takes 1.6 to 2.1 times as long, attention's projections 1.2 to 1.4 times.
    """
    inputs, _, result = equation.partition("->")
    left, _, right = inputs.partition(",")
    summed = len(right) - len(set(right) & set(result))  # axes, the last of x and first of weight
    rows, columns = left[: len(left) - summed], right[summed:]
    is_product = left == rows + right[:summed] and result == rows + columns
    if not is_product or axes.devices() > 1 or axes.platform() != "cpu":
        return axes.einsum(equation, x, weight, out=out)
    size = math.prod(weight.shape[:summed])
    flat = axes.reshape(x, (-1, size), "row embed")
    product = axes.einsum(
        "nd,df->nf", flat, axes.reshape(weight, (size, -1), "embed ff"), out="row ff"
    )
    return axes.reshape(product, (*x.shape[: len(rows)], *weight.shape[summed:]), out)


def cast(weights: Any, dtype: Any) -> Any:
    """Weights for use in `dtype`; keys, numbers of rows and codes stay what they are."""

    def one(w: Any) -> Any:
        return w.astype(dtype) if is_plain(w) and jnp.issubdtype(w.dtype, jnp.floating) else w

    return jax.tree.map(one, weights, is_leaf=lambda w: isinstance(w, Coded))


def is_plain(weight: Any) -> bool:
    """Whether a weight is an array of its own numbers."""
    return not isinstance(weight, Operator)


def whole(weight: Any, dtype: Any) -> jax.Array:
    """The array of a weight without an adapter, in `dtype`."""
    return weight.whole(dtype) if isinstance(weight, Coded) else weight.astype(dtype)


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
