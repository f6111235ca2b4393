"""Adapters over a base: what they start as, what they compute, where they may stand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.core import struct, trees
from alignjax.models import mla, transformer
from alignjax.models.adapters import adapt, bottleneck, ia3, lora, merge, prefix, sites
from alignjax.models.config import MlaConfig, MoeConfig
from tests.models import tiny
from tests.models.adapters import kinds

MODEL = tiny.model(tied=False)
ROWS = tiny.rows(tiny.sequences([5, 8, 1]), 8)


def base():
    return jax.tree.map(jnp.asarray, tiny.params(tied=False))


def joined(name, own, over, key=None):
    return kinds.model_of(name, MODEL).bind(own, {"base": over}, key)


def find(name, own, over, key=None):
    """Logits [B, T, V] of adapters over a base."""
    run = jax.jit(lambda o, b: kinds.logits(MODEL, joined(name, o, b, key), *ROWS))
    return np.asarray(run(own, over))


@pytest.fixture(scope="module")
def plain():
    return np.asarray(jax.jit(lambda b: kinds.logits(MODEL, b, *ROWS))(base()))


@pytest.mark.parametrize("name", kinds.KINDS)
def test_it_starts_as_exactly_its_base_and_can_leave_it(name, plain):
    own = kinds.model_of(name, MODEL).init(jax.random.key(0))
    weights = base()
    assert np.abs(find(name, own, weights) - plain).max() == 0
    assert np.abs(find(name, kinds.roughen(own), weights) - plain).max() > 0.01
    assert np.abs(find(name, adapt.empty(own), weights) - plain).max() == 0
    assert np.abs(find(name, weights, kinds.roughen(weights)) - plain).max() == 0
    bound = joined(name, own, weights)
    shared = {id(x) for x in jax.tree.leaves(bound)}
    assert {id(x) for x in jax.tree.leaves(weights)} <= shared  # no copy of the base


@pytest.mark.parametrize("name", kinds.KINDS)
def test_what_a_rollout_reads_is_the_same(name):
    model = kinds.model_of(name, MODEL)
    bound = joined(name, kinds.roughen(model.init(jax.random.key(0))), base())
    ready = model.prepare(bound)  # whose layers may stand apart
    stacked = jax.tree.map(lambda *parts: np.concatenate(parts), *ready.blocks)
    found = struct.replace(ready, blocks=(stacked,))
    jax.tree.map(np.testing.assert_array_equal, found, bound)


def matrix(path, x):
    """The stored weight of a path [L, in, out] as matrices."""
    x = np.asarray(x, np.float64)
    cut = x.ndim - 1 if path.endswith("out") else 2
    return x.reshape(x.shape[0], np.prod(x.shape[1:cut]), -1)


@pytest.mark.parametrize("name", ["lora", "dora", "ia3"])
def test_the_product_is_that_of_the_papers_matrix(name):
    """LoRA: W + s A B. DoRA: m (W + s A B) / |W + s A B| with the columns' lengths. IA3: gains."""
    own = kinds.roughen(kinds.model_of(name, MODEL).init(jax.random.key(0)))
    weights = base()
    made = {}
    for path, weight in trees.named_leaves(weights).items():
        node = own
        for part in path.split("/"):
            node = node[int(part)] if part.isdigit() else getattr(node, part)
        made[path] = weight
        if node is None:
            continue
        flat = matrix(path, weight)
        if name == "ia3":
            gain = np.asarray(node.gain, np.float64).reshape(flat.shape[0], -1)
            flat = flat * (gain[:, :, None] if path.endswith("down") else gain[:, None])
        else:
            down = np.asarray(node.down, np.float64).reshape(*flat.shape[:2], -1)
            up = np.asarray(node.up, np.float64).reshape(flat.shape[0], -1, flat.shape[2])
            moved = flat + (16.0 / 3) * down @ up
            if name == "dora":
                stretch = np.asarray(node.stretch, np.float64).reshape(flat.shape[0], 1, -1)
                length = np.linalg.norm(flat, axis=1, keepdims=True) + stretch
                moved = length * moved / np.linalg.norm(moved, axis=1, keepdims=True)
            flat = moved
        made[path] = jnp.asarray(flat.reshape(weight.shape), jnp.float32)
    by_hand = trees.map_named(lambda path, _: made[path], weights)
    expected = np.asarray(kinds.logits(MODEL, by_hand, *ROWS))
    np.testing.assert_allclose(find(name, own, weights), expected, atol=2e-5)


def test_scales_and_ranks_are_those_of_the_papers():
    config = lora.LoraConfig(
        rank=4, alpha=8.0, targets=("query", "value", "up"), ranks=("value=16",), alphas=("up=2",)
    )
    assert [config.scale_of(t) for t in config.targets] == [2.0, 0.5, 0.5]
    steady = lora.LoraConfig(rank=4, alpha=8.0, ranks=("value=16",), stabilised=True)
    assert [steady.scale_of(t) for t in steady.targets] == [4.0, 2.0]
    own = adapt.adapt(MODEL, config).init(jax.random.key(0))
    attention, mlp = own.blocks[0].attention, own.blocks[0].mlp
    assert attention.query.down.shape == (2, 16, 4)
    assert attention.value.up.shape == (2, 16, 2, 8)
    assert mlp.up.up.shape == (2, 4, 24)
    assert attention.key is attention.out is mlp.gate is own.embed is None
    assert np.std(attention.query.down) == pytest.approx((3 * 16) ** -0.5, rel=0.2)


def test_dora_trains_direction_and_length_apart():
    """The length's gradient takes the present length as a constant (section 4.3)."""
    own = kinds.roughen(kinds.model_of("dora", MODEL).init(jax.random.key(0)), size=0.1)
    weights = base()

    def loss(node):
        mlp = struct.replace(own.blocks[0].mlp, gate=node)
        block = struct.replace(own.blocks[0], mlp=mlp)
        bound = joined("dora", struct.replace(own, blocks=(block,)), weights)
        return jnp.mean(kinds.logits(MODEL, bound, *ROWS) ** 2)

    node = own.blocks[0].mlp.gate
    found = jax.grad(loss)(node)
    # Growing down by a factor and shrinking up by it changes nothing, so the gradients agree.
    np.testing.assert_allclose(
        jnp.sum(found.down * node.down), jnp.sum(found.up * node.up), rtol=1e-3
    )
    assert np.abs(found.stretch).max() > 0


def test_dropout_needs_a_key_and_keeps_the_mean():
    config = lora.LoraConfig(rank=3, dropout=0.4, targets=("down",))
    model = adapt.adapt(MODEL, config)
    own, weights = kinds.roughen(model.init(jax.random.key(0))), base()
    layer = jax.tree.map(lambda x: x[0], own.blocks[0].mlp.down)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 24)), jnp.float32)
    how = {"stored": "ff embed", "out": "batch time embed"}

    def product(key):
        node = struct.replace(layer, base=weights.blocks[0].mlp.down[0], key=key)
        return node.product("btf,fd->btd", x, **how)

    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.vmap(product)(keys)
    assert np.std(drawn[:, 0, 0, 0]) > 0.1
    np.testing.assert_allclose(np.mean(drawn, axis=0), product(None), atol=0.25)
    run = jax.jit(lambda key: kinds.logits(MODEL, model.bind(own, {"base": weights}, key), *ROWS))
    first, same, other = (run(jax.random.key(n)) for n in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 1e-3


def test_bottlenecks_stand_behind_their_sub_layers():
    own = kinds.roughen(kinds.model_of("houlsby", MODEL).init(jax.random.key(0)))
    block = own.blocks[0]
    one = jax.tree.map(lambda x: x[0], block.attention.out)
    weight = base().blocks[0].attention.out[0]
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 2, 8)).astype(np.float32)
    node = struct.replace(one, base=weight)
    bias = np.ones(16, np.float32)
    how = {"stored": "kv group head embed", "out": "batch time embed", "bias": bias}
    found = node.product("btkgh,kghd->btd", x, **how)
    y = np.einsum("btkgh,kghd->btd", x, weight) + bias
    inner = jax.nn.gelu(y @ one.down + one.down_bias, approximate=True)
    np.testing.assert_allclose(found, y + inner @ one.up + one.up_bias, atol=1e-4)
    assert block.mlp.down is not None
    alone = kinds.model_of("pfeiffer", MODEL).init(jax.random.key(0)).blocks[0]
    assert alone.attention.out is None
    assert alone.mlp.down is not None


@pytest.mark.parametrize("gated", [False, True])
def test_a_prefix_is_seen_by_every_query(gated):
    """One softmax over prefix and tokens, or the base plus tanh(gate) of the prefix alone."""
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 3, 2, 2, 4)), rng.normal(size=(2, 2, 5, 4))
    value, mask = rng.normal(size=(2, 2, 5, 4)), rng.random((2, 3, 5)) < 0.5
    mask[:, :, 0] = True
    own = prefix.Prefix(
        keys=jnp.asarray(rng.normal(size=(3, 2, 4))),
        values=jnp.asarray(rng.normal(size=(3, 2, 4))),
        gate=jnp.asarray(rng.normal(size=(2, 2))) if gated else None,
    )

    def look(key, value, mask):
        return transformer.attention.attend(jnp.asarray(query), key, value, mask, scale=0.5)

    found = own.attend(look, jnp.asarray(key), jnp.asarray(value), jnp.asarray(mask))

    def mass(keys):
        return np.exp(0.5 * np.einsum("btkgh,bksh->btkgs", query, keys))

    tokens = mass(key) * mask[:, :, None, None]
    learned = mass(np.tile(np.swapaxes(own.keys, 0, 1), (2, 1, 1, 1)))
    seen = np.einsum("btkgs,bksh->btkgh", tokens, value)
    more = np.einsum("btkgs,skh->btkgh", learned, own.values)
    sums = tokens.sum(-1)[..., None], learned.sum(-1)[..., None]
    expected = (seen + more) / (sums[0] + sums[1])
    if gated:
        expected = seen / sums[0] + np.tanh(own.gate)[..., None] * more / sums[1]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", kinds.KINDS)
def test_cached_decode_equals_one_pass(name):
    own = kinds.roughen(kinds.model_of(name, MODEL).init(jax.random.key(0)))
    bound = joined(name, own, base())
    tokens, positions, segments = tiny.rows(tiny.sequences([8, 8]), 8)
    whole, _ = MODEL.hidden(bound, tokens, positions=positions, segments=segments)
    cache, parts = MODEL.cache(2, 8), []
    for cut in (slice(0, 5), slice(5, 6), slice(6, 8)):
        part, cache = MODEL.hidden(
            bound,
            tokens[:, cut],
            positions=positions[:, cut],
            segments=segments[:, cut],
            cache=cache,
        )
        parts.append(part)
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=2e-5)


def test_adapters_of_a_bfloat16_base_stay_wide():
    model = tiny.model(param_dtype="bfloat16", compute_dtype="bfloat16")
    for config in kinds.KINDS.values():
        adapted = adapt.adapt(model, config)
        own, weights = adapted.init(jax.random.key(0)), model.init(jax.random.key(1))
        assert {x.dtype for x in jax.tree.leaves(own)} == {jnp.dtype("float32")}
        bound = adapted.bind(own, {"base": weights})
        np.testing.assert_array_equal(
            kinds.logits(model, bound, *ROWS), kinds.logits(model, weights, *ROWS)
        )


def test_experts_and_latents_take_lora_where_it_can_stand():
    experts = transformer.transformer(
        tiny.config(moe=MoeConfig(experts=4, active=2, ff=8, shared_ff=8))
    )
    every = adapt.adapt(experts, lora.LoraConfig(targets=("query", "gate", "down")))
    own = every.init(jax.random.key(0))
    assert own.blocks[0].mlp.gate is None  # the experts' stack has names of its own
    assert own.blocks[0].mlp.shared.gate.down.shape == (2, 16, 8)
    mla = MlaConfig(kv_rank=8, query_rank=6, rope_dim=4, value_dim=8)
    latents = transformer.transformer(tiny.config(kv_heads=4, mla=mla))
    for targets in (("key",), ("value",)):
        with pytest.raises(ValueError, match="must name key and value together"):
            adapt.adapt(latents, lora.LoraConfig(targets=targets))
    with pytest.raises(ValueError, match="with one rank and alpha"):
        adapt.adapt(latents, lora.LoraConfig(targets=("key", "value"), ranks=("key=2",)))
    with pytest.raises(ValueError, match=r"adapter.targets .* got 'key'"):
        adapt.adapt(latents, ia3.Ia3Config())
    for config in (lora.LoraConfig(dora=True), lora.LoraConfig(dropout=0.1)):
        config.targets = ("experts_in",)
        with pytest.raises(ValueError, match="with routed experts as targets"):
            adapt.adapt(experts, config)
    with pytest.raises(ValueError, match="latents"):
        adapt.adapt(latents, prefix.PrefixConfig())
    with pytest.raises(ValueError, match="in every layer"):
        adapt.adapt(experts, bottleneck.BottleneckConfig())
    for model in (experts, latents):
        adapted = adapt.adapt(model, lora.LoraConfig(targets=("query", "out")))
        weights = model.init(jax.random.key(1))
        own = kinds.roughen(adapted.init(jax.random.key(0)))
        bound = adapted.bind(own, {"base": weights})
        moved, still = (kinds.logits(model, tree, *ROWS) for tree in (bound, weights))
        assert np.abs(moved - still).max() > 1e-3


MLA = MlaConfig(kv_rank=8, query_rank=6, rope_dim=4, value_dim=8)
EVERYWHERE = {
    "latents": (
        tiny.config(kv_heads=4, mla=MLA),
        ("query", "query_down", "latent", "key", "value", "out", "gate"),
    ),
    "experts": (
        tiny.config(moe=MoeConfig(experts=4, active=2, ff=8, shared_ff=8)),
        ("experts_in", "experts_down", "gate", "up", "down"),
    ),
}


@pytest.mark.parametrize("dora", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", EVERYWHERE)
def test_latents_and_experts_do_what_their_merged_weights_do(name, dora):
    """One low-rank map for the halves of a matrix; with a cache too, one token at a time."""
    shape, targets = EVERYWHERE[name]
    if dora:
        targets = tuple(t for t in targets if t not in sites.EXPERTS)
    model = transformer.transformer(shape)
    adapted = adapt.adapt(model, lora.LoraConfig(rank=3, targets=targets, dora=dora))
    weights = model.init(jax.random.key(1))
    own = adapted.init(jax.random.key(0))
    run = jax.jit(lambda tree: kinds.logits(model, tree, *ROWS))
    plain = run(weights)
    np.testing.assert_array_equal(run(adapted.bind(own, {"base": weights})), plain)
    own = kinds.roughen(own)
    bound = adapted.bind(own, {"base": weights})
    merged, kept = merge.merge(bound)
    wanted, found = run(merged), run(bound)
    np.testing.assert_allclose(found, wanted, atol=3e-5 * np.abs(wanted).max())
    assert np.abs(wanted - plain).max() > 0.05
    for site in kept:  # every site moves the logits by itself
        still = trees.map_named(lambda n, x, site=site: kept[n] if n == site else x, merged)
        assert np.abs(run(still) - wanted).max() > 1e-4, site
    if name == "latents":
        assert own.blocks[0].attention.value.down is own.blocks[0].attention.rotated.down is None
    else:
        assert own.blocks[0].mlp.up is None or own.blocks[0].mlp.up.down is None
    if dora or name == "experts":
        return
    tokens, positions, segments = tiny.rows(tiny.sequences([8, 8]), 8)
    whole, _ = model.hidden(bound, tokens, positions=positions, segments=segments)
    cache, parts = model.cache(2, 8), []
    for cut in (slice(0, 7), slice(7, 8)):
        given = {"positions": positions[:, cut], "segments": segments[:, cut]}
        part, cache = model.hidden(bound, tokens[:, cut], cache=cache, **given)
        parts.append(part)
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lora.LoraConfig(rank=0), "adapter.rank must be"),
        (lora.LoraConfig(alpha=-1.0), "adapter.alpha must be"),
        (lora.LoraConfig(dropout=1.0), "adapter.dropout must be"),
        (lora.LoraConfig(targets=("q_proj",)), "adapter.targets must be different names among"),
        (lora.LoraConfig(targets=()), "got none"),
        (lora.LoraConfig(ranks=("key=4",)), "adapter.ranks must name targets; got 'key'"),
        (lora.LoraConfig(ranks=("value",)), "adapter.ranks must be entries TARGET=NUMBER"),
        (ia3.Ia3Config(inputs=("up",)), "adapter.inputs must name targets; got 'up'"),
        (bottleneck.BottleneckConfig(places="both"), "adapter.places must be one of"),
        (bottleneck.BottleneckConfig(width=0), "adapter.width must be"),
        (prefix.PrefixConfig(length=0), "adapter.length must be"),
    ],
)
def test_bad_configurations_are_refused_by_name(config, message):
    with pytest.raises(ValueError, match=message):
        adapt.adapt(MODEL, config)


def test_a_model_without_declared_parameters_is_refused():
    with pytest.raises(ValueError, match="must declare its parameters"):
        adapt.adapt(MODEL._replace(declared=None), lora.LoraConfig())
    assert adapt.adapt(MODEL, adapt.FullConfig()) is MODEL


def test_sides_of_a_map():
    found = sites.sides("btkgh,kghd->btd", "kv group head embed", "batch time embed")
    assert found == ("bt", "kgh", "d", "batch time", "kv group head", "embed")
    with pytest.raises(ValueError, match=r"must be \[inputs, outputs\]"):
        sites.sides("btkh,rkh->btkr", "route kv head", "batch time kv route")


def test_maps_whose_rows_are_not_together():
    found = sites.in_order("bsr,rkh->bksh", "batch kv slot head")
    assert found == ("bsr,rkh->bskh", "batch slot kv head", (0, 2, 1, 3))
    same = ("btd,dkh->btkh", "batch time kv head")
    assert sites.in_order(*same) == (*same, (0, 1, 2, 3))


@pytest.mark.slow
def test_decoding_absorbs_adapted_latents(monkeypatch):
    """Queries are brought to the latents with their adapters: the same numbers, other products."""
    shape = tiny.config(kv_heads=4, mla=MLA)
    model = transformer.transformer(shape)
    config = lora.LoraConfig(rank=3, targets=("query", "key", "value", "latent"))
    adapted = adapt.adapt(model, config)
    weights = jax.jit(model.init)(jax.random.key(1))
    own = kinds.roughen(jax.jit(adapted.init)(jax.random.key(0)))
    tokens, positions, segments = tiny.rows(tiny.sequences([8, 8]), 8)
    assert mla.absorbs(shape, 1, 8)

    def last(own):
        bound = adapted.bind(own, {"base": weights})
        cache = model.cache(2, 8)
        for cut in (slice(0, 7), slice(7, 8)):
            places = {"positions": positions[:, cut], "segments": segments[:, cut]}
            states, cache = model.hidden(bound, tokens[:, cut], **places, cache=cache)
        return states

    absorbed = jax.jit(last)(own)
    monkeypatch.setattr(mla, "absorbs", lambda *sizes: False)
    plain = jax.jit(lambda own: last(own))(own)
    np.testing.assert_allclose(absorbed, plain, atol=1e-5)
    monkeypatch.setattr(mla, "absorbs", lambda *sizes: True)
    monkeypatch.setattr(mla, "_by_latents", None)
    np.testing.assert_array_equal(jax.jit(lambda own: last(own) + 0)(own), absorbed)


def test_all_linear_is_every_matrix_of_the_layers():
    config = lora.LoraConfig(targets=("all-linear",), ranks=("down=2",))
    config.validate()
    assert config.of(MODEL.declared).targets == sites.TARGETS
    own = config.declare(MODEL.declared)
    assert own.blocks[0].mlp.down.up.shape == (2, 2, 16)
    assert own.unembed is own.embed is None
    shape, _ = EVERYWHERE["experts"]
    experts = config.of(transformer.transformer(shape).declared).targets
    assert set(experts) == {*sites.TARGETS}  # routed experts are named by themselves
    shape, _ = EVERYWHERE["latents"]
    latents = config.of(transformer.transformer(shape).declared).targets
    assert set(latents) == {*sites.TARGETS, *sites.LATENTS}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"targets": ("q_proj",)}, r"among query, .* got q_proj .* For q_proj say query\."),
        ({"targets": ("querry",)}, "For querry say query"),
        ({"targets": ("query", "all-linear")}, "got query, all-linear"),
        ({"targets": ("lm_head",)}, "For lm_head say unembed"),
        ({"whole": ("nrom",)}, "adapter.whole must be .* For nrom say norm"),
        ({"whole": ("query",)}, "adapter.whole must be different names among embed"),
        ({"targets": ("embed",), "whole": ("embed",)}, "adapter.whole must name no target"),
        ({"targets": ("embed",), "dora": True}, "adapter.dora must be off with embed"),
        ({"targets": ("unembed",), "dropout": 0.1}, "adapter.dropout must be 0 with unembed"),
        ({"tie": True}, "adapter.tie must be of embed alone"),
        ({"targets": ("experts_in", "experts_up")}, "experts_in or experts_gate and experts_up"),
    ],
)
def test_targets_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        lora.LoraConfig(**fields).validate()


def test_whole_weights_that_a_model_lacks_are_refused():
    with pytest.raises(
        ValueError, match=r"adapter.whole must be weights of the model; got 'query_n"
    ):
        lora.LoraConfig(whole=("query_norm",)).declare(MODEL.declared)


@pytest.mark.parametrize("tied", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_vocabularys_adapters_start_as_the_base_and_are_what_a_rollout_reads(tied):
    model = tiny.model(tied=tied)
    weights = jax.tree.map(jnp.asarray, tiny.params(tied=tied))
    adapted = kinds.model_of("vocabulary", model)
    own = jax.jit(adapted.init)(jax.random.key(0))
    run = jax.jit(lambda tree: kinds.logits(model, tree, *ROWS))
    still = run(weights)
    np.testing.assert_array_equal(run(adapted.bind(own, {"base": weights})), still)
    bound = adapted.bind(kinds.roughen(own), {"base": weights})
    moved = run(bound)
    assert np.abs(moved - still).max() > 0.01
    np.testing.assert_allclose(jax.jit(model.prepare)(bound).unembed, model.unembedding(bound))
    whole, kept = merge.merge(bound)
    np.testing.assert_allclose(run(whole), moved, atol=2e-5)
    jax.tree.map(np.testing.assert_array_equal, merge.unmerge(whole, kept), weights)
