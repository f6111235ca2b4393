"""Products of tokens and weights."""

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.models import layers


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def mlp(*, bias: bool = False):
    biases = {f"{n}_bias": draw(i, w) for i, (n, w) in enumerate([("gate", 5), ("down", 4)])}
    return layers.Mlp(
        gate=draw(1, 4, 5), up=draw(2, 4, 5), down=draw(3, 5, 4), **(biases if bias else {})
    )


def by_einsum(weights, x):
    def product(x, w, bias):
        y = jnp.einsum("btd,df->btf", x, w)
        return y if bias is None else y + bias

    gate = product(x, weights.gate, weights.gate_bias)
    up = product(x, weights.up, weights.up_bias)
    return product(jax.nn.silu(gate) * up, weights.down, weights.down_bias)


def test_gated_mlp_and_its_gradient_are_the_einsums():
    weights, x = mlp(bias=True), draw(4, 2, 3, 4)

    def loss(run):
        return jax.value_and_grad(lambda w, x: jnp.sum(jnp.sin(run(w, x))), argnums=(0, 1))

    found = loss(lambda w, x: layers.gated_mlp(w, x, "silu"))(weights, x)
    wanted = loss(by_einsum)(weights, x)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), found, wanted)


def test_no_gradient_of_an_mlp_is_a_sum_over_two_axes():
    """Which XLA's CPU backend computes by way of transposed copies."""
    gradient = jax.grad(lambda w, x: jnp.sum(jnp.sin(layers.gated_mlp(w, x, "silu"))))
    traced = jax.make_jaxpr(gradient)(mlp(), draw(4, 2, 3, 4))
    products = [e for e in traced.jaxpr.eqns if e.primitive.name == "dot_general"]
    summed = [len(e.params["dimension_numbers"][0][0]) for e in products]
    assert len(summed) >= 6, summed
    assert set(summed) == {1}, summed
