"""Our Transformer as a Flax module: the same tree, the same bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.training import train_state

from alignjax.core import struct, trees
from alignjax.models import flax_bridge, flax_contract, flax_module, scoring, transformer
from alignjax.models.adapters import adapt, lora
from alignjax.models.config import MoeConfig
from alignjax.parallel import hosts
from tests.models import tiny

SHAPES = {
    "tied": {},
    "untied, bfloat16, softcap": {
        "tied": False,
        "compute_dtype": "bfloat16",
        "logit_softcap": 5.0,
    },
    "experts in some layers": {
        "tied": False,
        "moe": MoeConfig(experts=4, active=2, ff=8, first=1),
    },
}


def batch():
    """Ragged rows, padded, one of them packed."""
    tokens, positions, segments = tiny.rows(tiny.sequences([6, 3, 5, 6, 2, 4, 6, 5]), 6)
    segments[0, 3:], positions[0, 3:] = 2, np.arange(3)
    return hosts.to_global({"tokens": tokens, "positions": positions, "segments": segments})


def scored(config, key=0):
    """Our model and weights with a scalar head that is not zero."""
    model = transformer.transformer(config)

    def make(key):
        weights = model.init(key)
        return struct.replace(model.with_scalar(weights), scalar=jnp.arange(16.0) - 8)

    return model, jax.jit(make)(jax.random.key(key))


@pytest.mark.parametrize("name", SHAPES)
def test_the_tree_is_the_same_both_ways(name):
    config = tiny.config(**SHAPES[name])
    model, weights = scored(config)
    for tree in (weights, model.without_scalar(weights)):
        nested = flax_module.to_nested(tree)
        assert {n: id(x) for n, x in trees.named_leaves(nested).items()} == {
            n: id(x) for n, x in trees.named_leaves(tree).items()
        }
        again = flax_module.from_nested(config, nested)
        assert jax.tree.structure(again) == jax.tree.structure(tree)
        assert all(a is b for a, b in zip(*map(jax.tree.leaves, (again, tree)), strict=True))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == "tied" else pytest.mark.slow) for n in SHAPES]
)
def test_apply_is_ours_bit_for_bit_on_every_mesh(name, any_mesh):
    config = tiny.config(**SHAPES[name])
    model, weights = scored(config)
    module = flax_module.as_linen(config, scalar_head=True)
    variables, given = {"params": flax_module.to_nested(weights)}, batch()

    @jax.jit
    def theirs(variables, tokens, positions, segments):
        run = {
            method: module.apply(variables, tokens, positions, segments, method=method)
            for method in ("hidden", "scalar", "__call__")
        }
        return run["hidden"], run["scalar"], run["__call__"]

    @jax.jit
    def ours(weights, tokens, positions, segments):
        states, _ = model.hidden(weights, tokens, positions=positions, segments=segments)
        logits = jnp.einsum(
            "btd,dv->btv",
            states,
            model.unembedding(weights),
            preferred_element_type=jnp.float32,
            **({} if any_mesh is None else {"out_sharding": BATCH_VOCAB}),
        )
        cap = config.logit_softcap
        return (
            states,
            model.scalar(weights, states),
            cap * jnp.tanh(logits / cap) if cap else logits,
        )

    for a, b in zip(theirs(variables, **given), ours(weights, **given), strict=True):
        assert (a.shape, a.dtype, a.sharding) == (b.shape, b.dtype, b.sharding)
        np.testing.assert_array_equal(a, b)
    assert theirs(variables, **given)[2].dtype == jnp.float32


BATCH_VOCAB = jax.P(("replica", "data"), None, "model")


def test_gradients_are_ours_bit_for_bit():
    config = tiny.config()
    model, weights = scored(config)
    module = flax_module.as_linen(config)
    given = batch()

    def theirs(tree):
        return jnp.sum(module.apply({"params": tree}, **given, method="hidden") ** 3)

    def ours(weights):
        tokens, *seen = given.values()
        return jnp.sum(model.hidden(weights, tokens, positions=seen[0], segments=seen[1])[0] ** 3)

    found = jax.jit(jax.grad(theirs))(flax_module.to_nested(weights))
    want = jax.jit(jax.grad(ours))(weights)
    jax.tree.map(np.testing.assert_array_equal, flax_module.from_nested(config, found), want)


def test_fresh_parameters_have_our_tree_and_laws(any_mesh):
    config = tiny.config(tied=False)
    model, weights = scored(config)
    module = flax_module.as_linen(config)
    fresh = jax.jit(module.init)(jax.random.key(0), batch()["tokens"])["params"]
    own = flax_module.from_nested(config, fresh)
    want = model.without_scalar(weights)
    for name, x in trees.named_leaves(want).items():
        found = trees.named_leaves(own)[name]
        assert (found.shape, found.dtype, found.sharding) == (x.shape, x.dtype, x.sharding), name
        np.testing.assert_allclose(np.std(found), np.std(x), rtol=0.25, atol=1e-7, err_msg=name)


def test_positions_count_and_all_is_one_segment_by_default():
    config = tiny.config()
    model, weights = scored(config)
    tokens = jnp.asarray(tiny.rows(tiny.sequences([5, 5]), 5)[0])
    positions = jnp.arange(5)[None] + jnp.zeros_like(tokens)
    want, _ = model.hidden(weights, tokens, positions=positions, segments=jnp.ones_like(tokens))
    variables = {"params": flax_module.to_nested(weights)}
    found = flax_module.as_linen(config).apply(variables, tokens, method="hidden")
    np.testing.assert_array_equal(found, want)


def test_the_module_is_hashable_and_keeps_the_config_it_was_made_of():
    config = tiny.config()
    module = flax_module.as_linen(config)
    assert hash(module.apply) == hash(module.apply)  # what a Flax TrainState under jit asks for
    config.layers = 7
    tokens = jnp.zeros((1, 2), jnp.int32)
    variables = module.init(jax.random.key(0), tokens)
    assert variables["params"]["blocks"]["0"]["mlp"]["gate"].shape[0] == tiny.SIZES["layers"]
    state = train_state.TrainState.create(
        apply_fn=module.apply, params=variables["params"], tx=_sgd()
    )
    found = jax.jit(lambda s, x: s.apply_fn({"params": s.params}, x))(state, tokens)
    np.testing.assert_array_equal(found, jax.jit(module.apply)(variables, tokens))


def _sgd():
    import optax

    return optax.sgd(0.1)


@pytest.mark.slow
def test_the_nnx_module_is_made_on_a_mesh(any_mesh):
    module = flax_module.as_nnx(tiny.config(), nnx.Rngs(0), scalar_head=True)
    _, weights = scored(tiny.config())
    fresh = flax_module.from_nested(tiny.config(), flax_bridge.nnx_weights(module).params)
    for name, x in trees.named_leaves(weights).items():
        assert trees.named_leaves(fresh)[name].sharding == x.sharding, name


def test_the_nnx_module_has_the_same_tree_and_bits():
    config = tiny.config(tied=False)
    model, weights = scored(config)
    weights = model.without_scalar(weights)
    module = flax_module.as_nnx(config, nnx.Rngs(0))
    fresh = flax_bridge.nnx_weights(module)
    flax_module.from_nested(config, fresh.params)
    ours = flax_bridge.Weights(params=flax_module.to_nested(weights))
    nnx.update(module, flax_bridge.nnx_state(module, ours))
    jax.tree.map(np.testing.assert_array_equal, flax_bridge.nnx_weights(module).params, ours.params)
    given = batch()
    graph, state = nnx.split(module)
    found = jax.jit(lambda state, given: nnx.merge(graph, state)(**given, method="hidden"))(
        state, given
    )
    want = jax.jit(lambda weights, tokens, **seen: model.hidden(weights, tokens, **seen)[0])(
        weights, **given
    )
    np.testing.assert_array_equal(found, want)


def test_out_and_back_through_the_bridge_is_ours():
    config = tiny.config(tied=False)
    model, weights = scored(config)
    contract = flax_contract.Contract(unembedding="unembed", states="hidden")
    bridged = flax_bridge.from_linen(flax_module.as_linen(config), contract)
    given = {**batch(), "loss_mask": jnp.ones((8, 6), bool)}
    wrapped = flax_bridge.Weights(params=flax_module.to_nested(model.without_scalar(weights)))
    found, want = (
        jax.jit(lambda w, m=m: scoring.token_stats(m, w, given))(w)
        for m, w in ((bridged, wrapped), (model, weights))
    )
    jax.tree.map(np.testing.assert_array_equal, found, want)


def changed(**changes):
    tree = flax_module.to_nested(tiny.model().init(jax.random.key(0)))
    return {k: v for k, v in {**tree, **changes}.items() if v is not None}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (lambda: changed(norm=None), "got norm is missing"),
        (lambda: changed(extra=jnp.zeros(2)), "got extra is unknown"),
        (lambda: changed(norm=jnp.zeros(3)), r"got norm is \(3,\), not \(16,\)"),
    ],
)
def test_trees_of_another_config_are_refused(tree, message):
    with pytest.raises(ValueError, match=message) as caught:
        flax_module.from_nested(tiny.config(), tree())
    assert "\n" not in str(caught.value)


def test_adapters_must_be_merged_first():
    base = tiny.model().init(jax.random.key(0))
    model = adapt.adapt(tiny.model(), lora.LoraConfig(rank=2))
    bound = model.bind(model.init(jax.random.key(1)), {"base": base})
    with pytest.raises(ValueError, match="got an adapter at blocks/0/attention/query"):
        flax_module.to_nested(bound)
