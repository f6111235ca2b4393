"""The decoder on meshes: the same numbers, gradients where parameters are, and every platform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from alignjax.core import struct, trees
from alignjax.models import params, scoring, transformer
from alignjax.models.config import MoeConfig, RopeScaling
from alignjax.models.config_parts import LentConfig
from alignjax.parallel import axes, hosts, mesh
from tests.models import test_lent_layers, test_short_conv, tiny

MODEL = tiny.model(tied=False, logit_tile=3)
LENGTHS = [6, 3, 5, 6, 2, 4, 6, 5]


def host_batch():
    tokens, positions, segments = tiny.rows(tiny.sequences(LENGTHS), 6)
    fields = {"tokens": tokens, "positions": positions, "segments": segments}
    return {**fields, "loss_mask": segments > 0}


def loss(weights, batch):
    """Log-probabilities, entropies and the scalar head, of one forward pass."""
    mask = scoring.counted(batch)
    hidden = scoring.hidden_states(MODEL, weights, batch)
    stats = scoring.stats_of(MODEL, weights, hidden, batch["tokens"])
    values = scoring.align(MODEL.scalar(weights, hidden))
    terms = values**2 - stats.logprob - 0.1 * stats.entropy
    return jnp.sum(jnp.where(mask, terms, 0.0)) / jnp.sum(mask)


GRADIENT, INIT = jax.jit(jax.value_and_grad(loss)), tiny.init(tied=False)


@pytest.fixture(scope="module")
def one_device():
    """(weights, value, gradients, initial weights) without a mesh."""
    head = np.random.default_rng(0).normal(size=16).astype(np.float32)
    weights = struct.replace(tiny.params(False), scalar=head)
    value, slopes = GRADIENT(weights, hosts.to_global(host_batch()))
    return weights, value, slopes, INIT(jax.random.key(7))


def test_every_mesh_gives_the_loss_and_gradient_of_one_device(one_device, any_mesh):
    host, want, gradients, initial = one_device
    weights = tiny.place(host, tied=False)
    value, slopes = GRADIENT(weights, hosts.to_global(host_batch()))
    np.testing.assert_allclose(value, want, rtol=1e-5)
    largest = max(float(np.abs(g).max()) for g in jax.tree.leaves(gradients))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), slopes, gradients
    )
    born = INIT(jax.random.key(7))  # the same draws; rounding may differ by a bit
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-7), born, initial)
    if any_mesh is not None:
        for name, x in trees.named_leaves(weights).items():
            assert trees.named_leaves(slopes)[name].sharding == x.sharding, name
        for name, x in trees.named_leaves(born).items():
            assert x.sharding == trees.named_leaves(weights)[name].sharding, name
        gate = weights.blocks[0].mlp.gate  # nothing is stored twice within a replica
        per_device = gate.addressable_shards[0].data.size
        assert per_device * any_mesh.size == gate.size * any_mesh.shape["replica"]


def test_comparisons_and_their_gradient_on_every_mesh(any_mesh):
    values = np.arange(24, dtype=np.float32).reshape(8, 3)
    host = {"values": values, "preferred": np.tile([[[2, 0], [1, 2]]], (8, 1, 1))}
    batch = hosts.to_global({**host, "pair_mask": np.tile([[True, False]], (8, 1))})

    def total(values, batch):
        chosen, rejected, mask = scoring.compared(values, batch)
        return jnp.sum(jnp.where(mask, 3 * chosen - rejected, 0.0)), (chosen, rejected)

    slopes, found = jax.jit(jax.grad(total, has_aux=True))(batch["values"], batch)
    np.testing.assert_array_equal(found, [values[:, [2, 1]], values[:, [0, 2]]])
    np.testing.assert_array_equal(slopes, np.tile([[-1.0, 0, 3]], (8, 1)))


def test_no_gradient_reaches_other_segments_padding_or_later_tokens(one_device):
    # Each part of row 0 has tokens of its own, so the embedding's gradient tells where it went;
    # with an untied unembedding nothing else touches those rows.
    batch = {name: np.zeros_like(x) for name, x in host_batch().items()}
    batch["tokens"][0] = 1, 2, 3, 4, 5, 6
    batch["segments"][0] = 1, 1, 2, 2, 2, 0
    batch["positions"][0] = 0, 1, 0, 1, 2, 0
    batch["loss_mask"][0, 4] = True
    value, slopes = GRADIENT(one_device[0], hosts.to_global(batch))
    reached = np.abs(slopes.embed).max(axis=1)
    np.testing.assert_array_equal(reached[:8] > 1e-6, [0, 0, 0, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(reached == 0, ~(reached > 1e-6))
    assert np.isfinite(value)


FAMILIES = {
    "gpt_oss": {
        "sinks": True,
        "attention": ("sliding", "full"),
        "window": 3,
        "qkv_bias": True,
        "out_bias": True,
        "moe": MoeConfig(experts=6, active=2, ff=8, bias=True, clamp=0.7),
    },
    "parts and lengths": {
        "rope_dim": 6,
        "rope_interleaved": True,
        "rope": RopeScaling(kind="dynamic", factor=2.0, original_length=3),
    },
    # Norms of small values grow rounding from layer to layer, the less the larger epsilon is.
    "gemma4": {
        **test_lent_layers.PARTS,
        "norm_eps": 1e-3,
        "layers": 4,
        "lent": LentConfig(layers=2, ff=32),
    },
    "lfm2": test_short_conv.PARTS,
    "gemma4 with experts": {
        "post_norms": True,
        "activation": "gelu",
        "moe": MoeConfig(experts=6, active=2, ff=8, beside=True),
    },
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_parts_of_families_on_meshes(kind):
    """Without a mesh, in data parts alone, and in data and model parts."""
    shape = tiny.config(tied=False, **FAMILIES[kind])
    model, declared = transformer.transformer(shape), transformer.declare(shape)
    rng = np.random.default_rng(1)
    host = jax.tree.map(
        lambda info: (0.3 * rng.normal(size=info.shape)).astype(np.float32),
        declared,
        is_leaf=params.is_info,
    )

    def loss(weights, batch):
        stats = scoring.token_stats(model, weights, batch)
        return -jnp.sum(jnp.where(scoring.counted(batch), stats.logprob, 0.0))

    def run():
        gradient = jax.jit(jax.value_and_grad(loss))
        where = jax.tree.map(
            lambda info: axes.spec(info.axes) if axes.has_mesh() else None,
            declared,
            is_leaf=params.is_info,
        )
        weights = jax.tree.map(jax.device_put, host, where) if axes.has_mesh() else host
        return jax.device_get(gradient(weights, hosts.to_global(host_batch())))

    wanted = run()
    for sizes in ({"data": 8}, {"data": 4, "model": 2}):
        with mesh.use(mesh.make_mesh(mesh.MeshConfig(**sizes))):
            found = run()
        np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
        for name, want in trees.named_leaves(wanted[1]).items():
            assert np.abs(want).max() > 1e-4 or name.endswith(("key_bias", "scalar")), name
            largest = max(float(np.abs(want).max()), 1e-2)
            got = trees.named_leaves(found[1])[name]
            np.testing.assert_allclose(got, want, atol=1e-5 * largest + 1e-6, err_msg=name)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_gradients_lower_for_accelerators_on_an_abstract_mesh(platform):
    # Large sizes cost nothing here: no array exists.
    pod = AbstractMesh((2, 16, 4), mesh.AXIS_NAMES, axis_types=(AxisType.Explicit,) * 3)
    with jax.sharding.use_abstract_mesh(pod):
        model = tiny.model(
            vocab_size=32768,
            width=1024,
            kv_heads=4,
            heads=16,
            ff=4096,
            tied=False,
            compute_dtype="bfloat16",
            remat="full",
        )
        weights = jax.eval_shape(lambda: model.init(jax.random.key(0)))
        where = jax.NamedSharding(pod, axes.spec("batch time"))
        batch = {
            name: jax.ShapeDtypeStruct((64, 128), jnp.int32, sharding=where)
            for name in ("tokens", "positions", "segments", "loss_mask")
        }

        def nll(weights, batch):
            logprobs = scoring.token_stats(model, weights, batch).logprob
            return -jnp.sum(jnp.where(scoring.counted(batch), logprobs, 0.0))

        traced = jax.jit(jax.grad(nll)).trace(weights, batch)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "sdy.mesh" in text or "mhlo.sharding" in text
    for name, out in trees.named_leaves(traced.out_info).items():
        want = trees.named_leaves(weights)[name]
        assert (out.shape, out.dtype) == (want.shape, want.dtype), name
        assert out.sharding.spec == want.sharding.spec, name
    assert weights.blocks[0].mlp.gate.sharding.spec == jax.P(None, "data", "model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kv_heads": 1},
            "model.kv_heads must be a multiple of the mesh's model axis; got 1 and 2",
        ),
        ({"vocab_size": 15}, "model.vocab_size must be a multiple of .*model.* got 15 and 2"),
        ({"ff": 23}, "model.ff must be a multiple of .*model.* got 23 and 2"),
        ({"width": 18}, "model.width must be a multiple of .*data.* got 18 and 4"),
    ],
)
def test_a_model_that_the_mesh_does_not_divide_is_refused(changes, message):
    tiny.model(**changes)
    with (
        mesh.use(mesh.make_mesh(mesh.MeshConfig(data=4, model=2))),
        pytest.raises(ValueError, match=message),
    ):
        tiny.model(**changes)
