"""Pytrees, means, random streams, shape checks and trees by path."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.core import errors, keys, mean, shapes, struct, trees


@struct.pytree
class Layer:
    weight: jax.Array
    name: str = struct.static(default="a")
    bias: jax.Array | None = None


def test_a_pytree_flattens_its_fields_and_keeps_static_ones_in_the_structure():
    layer = Layer(weight=jnp.arange(3.0), name="x")
    doubled = jax.tree.map(lambda x: 2 * x, layer)
    np.testing.assert_array_equal(doubled.weight, [0, 2, 4])
    assert (doubled.name, doubled.bias) == ("x", None)
    assert len(jax.tree.leaves(layer)) == 1
    other = struct.replace(layer, name="y")
    assert jax.tree.structure(layer) != jax.tree.structure(other)
    assert layer.name == "x"
    with pytest.raises(dataclasses.FrozenInstanceError):
        layer.name = "z"
    with pytest.raises(TypeError):
        Layer(jnp.ones(2))  # positional
    with pytest.raises(TypeError):
        struct.replace(layer, wieght=1)


def test_a_static_field_recompiles_and_a_leaf_does_not():
    traced = []

    @jax.jit
    def total(layer):
        traced.append(layer.name)
        return layer.weight.sum()

    layer = Layer(weight=jnp.ones(3))
    total(layer)
    total(struct.replace(layer, weight=jnp.zeros(3)))
    total(struct.replace(layer, name="b"))
    assert traced == ["a", "b"]


def test_means_of_parts_join_exactly():
    values = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0], np.float32)
    mask = np.array([1, 1, 0, 0, 0, 1])
    left, right = (mean.masked(values[s], mask[s]) for s in (slice(4), slice(4, 6)))
    joined = left + right
    assert float(joined.value) == np.float32(13) / np.float32(
        3
    )  # the mean of means would be (2 + 9) / 2
    assert (float(joined.total), float(joined.weight)) == (13, 3)
    both = mean.add({"a": left, "b": right}, {"a": right, "b": right})
    assert mean.floats(both) == {"a": np.float32(13) / 3, "b": 9.0}
    assert float(mean.of(values).value) == np.float32(values.sum() / 6)


def test_masked_values_reach_neither_the_mean_nor_its_gradient():
    values = jnp.array([1.0, jnp.nan, jnp.inf, 4.0])
    mask = jnp.array([True, False, False, True])
    value, slope = jax.value_and_grad(lambda x: mean.masked(x, mask).value)(values)
    assert float(value) == 2.5
    np.testing.assert_array_equal(slope, [0.5, 0, 0, 0.5])
    # A mask is true or false, not a weight; sums are fp32 whatever the values are.
    assert float(mean.masked(values, jnp.array([2, 0, 0, 2])).weight) == 2
    many = mean.masked(jnp.ones(4096, jnp.bfloat16), jnp.ones(4096, jnp.bfloat16))
    assert (float(many.total), many.total.dtype) == (4096, jnp.float32)


def test_an_empty_mean_is_zero_and_has_a_finite_gradient():
    value, slope = jax.value_and_grad(lambda x: mean.masked(x, jnp.zeros(2)).value)(jnp.ones(2))
    assert float(value) == 0
    np.testing.assert_array_equal(slope, [0, 0])
    assert mean.floats({"a": mean.masked(jnp.ones(2), jnp.zeros(2))}) == {"a": 0.0}


@pytest.mark.parametrize("step", [0, 1, 2**31 - 1])
def test_a_steps_keys_are_those_of_its_streams_bit_for_bit(step):
    own = keys.Steps(7, updates=3)(step)
    collect, order, loss = (
        keys.at(keys.stream(7, purpose), step) for purpose in ("collect", "order", "loss")
    )
    wanted = [collect, order, *(keys.at(loss, number) for number in range(3))]
    for a, b in zip([own.collect, own.order, *own.losses], wanted, strict=True):
        np.testing.assert_array_equal(jax.random.key_data(a), jax.random.key_data(b))


def test_streams_are_distinct_and_reproducible():
    drawn = {
        (seed, purpose, step): tuple(
            jax.random.key_data(keys.at(keys.stream(seed, purpose), step)).tolist()
        )
        for seed in (0, 1)
        for purpose in ("init", "order", "loss")
        for step in (0, 1, 2)
    }
    assert len(set(drawn.values())) == len(drawn)
    again = jax.jit(lambda step: keys.at(keys.stream(1, "order"), step))(2)  # a traced step
    assert tuple(jax.random.key_data(again).tolist()) == drawn[1, "order", 2]
    assert keys.integers(7, "labels/train") == [7, 0x324B65A7]  # crc32: the same for ever
    streams = {
        np.random.default_rng(keys.integers(s, p, *more)).integers(2**62)
        for s in (0, 1)
        for p in ("a", "b")
        for more in ((), (0,), (1,), (0, 0), (1, 0))
    }
    assert len(streams) == 2 * 2 * 5
    np.random.default_rng(keys.integers(-1, "a", -2))  # NumPy takes no negative words


def test_check_returns_sizes_and_says_what_differs():
    x = np.zeros((2, 3, 4))
    assert shapes.check("x", x, "B T D") == {"B": 2, "T": 3, "D": 4}
    assert shapes.check("x", x, "... T 4") == {"T": 3}
    assert shapes.check("x", 1.0, "") == {}
    for dims, sizes, message in [
        ("B T", {}, r"x must have shape \[B T\]; got \(2, 3, 4\)"),
        ("B T D", {"T": 5}, r"x must have shape \[B T D\] with T = 5; got \(2, 3, 4\)"),
        ("B B D", {}, "with B = 2; got"),
        ("B 7 D", {}, "with 7 = 7; got"),
        ("... A B T D", {}, r"x must have shape \[... A B T D\]; got"),
    ]:
        with pytest.raises(ValueError, match=message):
            shapes.check("x", x, dims, sizes)
    known = {"B": 2}
    shapes.check("x", x, "B T D", known)
    assert known == {"B": 2}  # the caller's sizes stay as they are


@pytest.mark.parametrize(
    ("bounds", "good", "bad", "rule"),
    [
        ({"above": 0}, 1e-9, 0, "> 0"),
        ({"minimum": 0}, 0, -1e-9, ">= 0"),
        ({"below": 1}, 0.999, 1, "< 1"),
        ({"maximum": 1}, 1, 1.001, "<= 1"),
        ({"minimum": 0, "below": 1}, 0.5, 1.5, ">= 0 and < 1"),
    ],
)
def test_check_number(bounds, good, bad, rule):
    assert shapes.check_number("beta", good, **bounds) == good
    with pytest.raises(ValueError, match=f"beta must be finite and {rule}; got {bad}"):
        shapes.check_number("beta", bad, **bounds)
    for wrong in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match="beta must be finite"):
            shapes.check_number("beta", wrong, **bounds)
    with pytest.raises(ValueError, match=r"beta must be a number, finite and .*; got 'x'"):
        shapes.check_number("beta", "x", **bounds)
    jax.jit(lambda b: shapes.check_number("beta", b, **bounds))(bad)  # tracers pass


def test_check_choice_suggests_the_nearest():
    assert shapes.check_choice("remat", "full", ("none", "full")) == "full"
    message = "remat must be one of none, full; got 'ful'. Did you mean 'full'?"
    with pytest.raises(ValueError) as caught:
        shapes.check_choice("remat", "ful", ("none", "full"))
    assert str(caught.value) == message
    with pytest.raises(ValueError, match=r"got 'zzz'\.$"):
        shapes.check_choice("remat", "zzz", ("none", "full"))


def test_trees_by_path_name():
    tree = {"a": [Layer(weight=jnp.ones((2, 3)), bias=jnp.zeros(3)), jnp.ones(1)]}
    assert list(trees.named_leaves(tree)) == ["a/0/weight", "a/0/bias", "a/1"]
    named = trees.map_named(lambda name, x, y: (name, x.shape, y.shape), tree, tree)
    assert named["a"][0].bias == ("a/0/bias", (3,), (3,))
    assert jax.tree.leaves(trees.matching(tree, r"bias$|/1")) == [False, True, True]
    assert trees.size(tree) == 6 + 3 + 1


def test_differences_of_trees_in_words():
    expected = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(1), "c": np.zeros(2)}
    given = {"a": np.zeros((3, 2), np.float32), "b": np.zeros(1, np.int32), "d": np.zeros(2)}
    assert trees.differences(expected, expected) == []
    assert trees.differences(expected, given) == [
        "c: missing",
        "d: not expected",
        "a: float32[2, 3] expected, float32[3, 2] given",
        "b: float64[1] expected, int32[1] given",
    ]


def test_exit_codes():
    codes = [e.code for e in (errors.Failure, errors.NonFinite, errors.Preempted)]
    assert codes == [1, 3, 143]
    assert issubclass(errors.NonFinite, errors.Failure)
    assert not issubclass(errors.Preempted, Exception)  # a signal is never a damaged file
