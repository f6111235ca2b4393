"""A base in few bits: its numbers, its products and gradients, and what of it is whole at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.core import trees
from alignjax.models import params, transformer
from alignjax.models.adapters import adapt, codes, lora, merge, quantised, sites
from alignjax.models.checkpoints import folder
from alignjax.models.config import MlaConfig, MoeConfig
from alignjax.training import fingerprints
from tests.models import tiny
from tests.models.adapters import kinds, record_nf4
from tests.models.adapters.test_peft_format import GOLDENS

GOLDEN = dict(np.load(record_nf4.FILE))
SHAPE = tiny.config(width=32, ff=64, head_dim=16)
MODEL = transformer.transformer(SHAPE)
ROWS = tiny.rows(tiny.sequences([5, 8, 1]), 8)
HOW = {
    "int8": quantised.BaseConfig(bits=8, block=16),
    "nf4": quantised.BaseConfig(bits=4, block=16, double=False),
    "nf4_double": quantised.BaseConfig(bits=4, block=16),
}


def drawn(declared, seed=0, size=0.3):
    """Host numbers in the shapes of a declared tree."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda info: jnp.asarray(size * rng.normal(size=info.shape), jnp.float32),
        declared,
        is_leaf=params.is_info,
    )


BASE = drawn(MODEL.declared)


def naive(blocks, book):
    """[N, block, M] as the nearest of a code book times the largest, one number at a time."""
    found = np.zeros_like(blocks)
    for n, m in np.ndindex(blocks.shape[0], blocks.shape[2]):
        column = blocks[n, :, m]
        largest = np.abs(column).max()
        for i, x in enumerate(column):
            distances = np.abs(book - (x / largest if largest else 0.0))
            found[n, i, m] = book[int(np.argmin(distances))] * largest
    return found


def test_codes_are_those_of_bitsandbytes():
    """Byte for byte the places and scales; the scales' own code book within a last bit."""
    weight = record_nf4.matrix()  # [out, in]; blocks run along the inputs
    blocks = weight.T.reshape(2, 64, -1)
    places, scales = codes.nf4(blocks)
    flat = places.transpose(2, 0, 1).reshape(-1)
    np.testing.assert_array_equal(flat, GOLDEN["plain_codes"])
    np.testing.assert_array_equal(scales.T.reshape(-1), GOLDEN["plain_scales"].reshape(-1))
    np.testing.assert_array_equal(np.array(codes.NF4, np.float32), GOLDEN["book"])
    np.testing.assert_array_equal(flat, GOLDEN["double_codes"])
    np.testing.assert_allclose(codes.dynamic_map(), GOLDEN["map"], rtol=2e-7)
    own, own_scales, offset = codes.double(scales)
    np.testing.assert_allclose(offset, GOLDEN["double_offset"], rtol=1e-6)
    np.testing.assert_allclose(own_scales, GOLDEN["double_own"], rtol=1e-5)
    differ = own.reshape(-1)[: scales.size] != GOLDEN["double_scales"].reshape(-1)
    assert differ.mean() < 0.02  # means summed in another order move ties


@pytest.mark.parametrize("name", ["plain", "double"])
def test_numbers_come_back_as_from_bitsandbytes(name):
    weight = record_nf4.matrix().T
    site = sites.Site("blocks/0/mlp/gate", (1,), (128,), (170,), "fsdp", "ff")
    how = quantised.BaseConfig(bits=4, double=name == "double")
    found = quantised._quantised(site, jnp.asarray(weight[None]), how).whole(jnp.float32)[0].T
    tolerance = 0 if name == "plain" else 2e-3
    np.testing.assert_allclose(found[:4], GOLDEN[f"{name}_first"], atol=tolerance)
    np.testing.assert_allclose(found.sum(axis=1), GOLDEN[f"{name}_sums"], atol=1e-4 + tolerance)


def test_rounding_is_the_nearest_code_within_the_bounds():
    rng = np.random.default_rng(1)
    blocks = rng.normal(size=(3, 16, 5)).astype(np.float32)
    blocks[0, :, 0] = 0
    places, scales = codes.nf4(blocks)
    again = np.stack([places >> 4, places & 15], axis=2).reshape(3, 16, 5)
    found = np.array(codes.NF4, np.float32)[again] * scales[:, None]
    np.testing.assert_allclose(found, naive(blocks, np.array(codes.NF4)), atol=1e-6)
    assert (np.abs(found - blocks) <= 0.152 * scales[:, None]).all()
    whole, steps = codes.int8(blocks)
    assert (np.abs(whole * steps[:, None] - blocks) <= 0.501 * steps[:, None]).all()
    np.testing.assert_allclose(steps, np.abs(blocks).max(axis=1) / 127, rtol=1e-6)
    assert not whole[0, :, 0].any()
    assert not found[0, :, 0].any()
    at = np.abs(blocks).argmax(axis=1)
    largest = np.take_along_axis(blocks, at[:, None], axis=1)
    np.testing.assert_array_equal(np.take_along_axis(found, at[:, None], axis=1), largest)


def step(adapted, own, base):
    """(loss, gradients of the adapters) over a base."""

    def loss(own, base):
        bound = adapted.bind(own, {"base": base})
        return jnp.mean(kinds.logits(MODEL, bound, *ROWS) ** 2)

    return jax.jit(jax.value_and_grad(loss))(own, base)


@pytest.mark.parametrize(
    ("name", "dora"),
    [
        pytest.param("nf4_double", False, marks=pytest.mark.slow),
        pytest.param("int8", False, marks=pytest.mark.slow),
        pytest.param("nf4", True, marks=pytest.mark.slow),
    ],
)
def test_losses_and_gradients_are_those_of_the_numbers_it_stands_for(name, dora):
    held = quantised.quantised(BASE, MODEL.declared, HOW[name])
    whole = merge.whole(held)
    assert jax.tree.structure(whole) == jax.tree.structure(BASE)
    for path, x in trees.named_leaves(BASE).items():
        matrix = "attention/" in path or "mlp/" in path
        assert np.array_equal(x, trees.named_leaves(whole)[path]) != matrix, path
    adapted = adapt.adapt(MODEL, lora.LoraConfig(rank=3, targets=sites.TARGETS, dora=dora))
    own = drawn(adapted_declared(adapted, dora), 1, 0.1)
    found, expected = (step(adapted, own, base) for base in (held, whole))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), found[1], expected[1]
    )


def adapted_declared(adapted, dora):
    return lora.LoraConfig(rank=3, targets=sites.TARGETS, dora=dora).declare(MODEL.declared)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["latents", "experts"])
def test_latents_and_experts_stand_in_few_bits_too(name):
    mla = MlaConfig(kv_rank=8, query_rank=8, rope_dim=4, value_dim=8)
    moe = MoeConfig(experts=4, active=2, ff=8, shared_ff=8)
    targets = ("query", "key", "value", "latent") if name == "latents" else ("query", "experts_in")
    shape = tiny.config(kv_heads=4, mla=mla) if name == "latents" else tiny.config(moe=moe)
    model = transformer.transformer(shape)
    adapter = lora.LoraConfig(rank=3, targets=targets)
    base, own = drawn(model.declared), drawn(adapter.declare(model.declared), 1, 0.1)
    held = quantised.quantised(base, model.declared, quantised.BaseConfig(bits=4, block=4))
    run = jax.jit(lambda tree: kinds.logits(model, tree, *ROWS))
    bound, whole = (adapt.bind(own, {"base": x}) for x in (held, merge.whole(held)))
    np.testing.assert_allclose(run(bound), run(whole), atol=1e-5)
    np.testing.assert_allclose(run(merge.whole(bound)), run(whole), atol=1e-5)


def test_shapes_alone_are_those_of_the_arrays():
    abstract = jax.eval_shape(lambda: BASE)
    for how in HOW.values():
        held = quantised.quantised(BASE, MODEL.declared, how)
        planned = quantised.quantised(abstract, MODEL.declared, how)
        assert not trees.differences(planned, held)


def sizes(base, layers):
    """Bytes of a step: (what its program makes, its arguments, all matrices of layers in fp32)."""
    shape = tiny.config(layers=layers, width=128, ff=512, heads=2, kv_heads=2, head_dim=64)
    rows = tiny.rows(tiny.sequences([4]), 4)
    model = transformer.transformer(shape)
    adapter = lora.LoraConfig(rank=1, targets=("query",))
    own = jax.eval_shape(lambda: drawn(adapter.declare(model.declared)))
    whole = jax.eval_shape(lambda: drawn(model.declared))
    held = quantised.quantised(whole, model.declared, base)

    def loss(own, base):
        return jnp.sum(kinds.logits(model, adapt.bind(own, {"base": base}), *rows))

    compiled = jax.jit(jax.grad(loss)).lower(own, held).compile()
    stats = compiled.memory_analysis()
    blocks = sum(x.size * 4 for x in jax.tree.leaves(whole.blocks))
    return stats.temp_size_in_bytes, stats.argument_size_in_bytes, blocks


@pytest.mark.slow
def test_no_copy_of_the_model_in_full_exists_in_a_step():
    """Temporaries of a step grow with layers by activations and codes, not by whole matrices."""
    how = quantised.BaseConfig(bits=4)
    (few, _, least), (many, arguments, blocks) = sizes(how, 2), sizes(how, 8)
    assert many - few < 0.3 * (blocks - least)
    assert arguments < 0.2 * blocks


def test_open_weights_are_read_into_codes_one_parameter_at_a_time():
    stored = folder.open_model(GOLDENS / "base")
    declared = transformer.declare(stored.config)
    how = quantised.BaseConfig(bits=8, block=4)
    held = stored.load(convert=quantised.converter(declared, how))
    after = quantised.quantised(stored.load(), declared, how)
    jax.tree.map(np.testing.assert_array_equal, held, after)
    assert fingerprints.identity(held) == fingerprints.identity(after)
    assert fingerprints.identity(held) != fingerprints.identity(stored.load())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bits": 3}, r"base.bits must be 4, 8, or 0 .*; got 3 \(base\)"),
        ({"bits": 4, "block": 63}, "base.block must be even; got 63"),
        ({"bits": 4, "block": 0}, "base.block must be .*>= 2; got 0"),
        ({"bits": 8, "block": 48}, r"base.block must divide .*; got 48, and 32 inputs of blocks/0"),
    ],
)
def test_bad_storage_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        quantised.quantised(BASE, MODEL.declared, quantised.BaseConfig(**fields))
