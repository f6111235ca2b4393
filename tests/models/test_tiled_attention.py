"""Attention in tiles against float64 NumPy, in models, on meshes and in what a step keeps."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.algorithms import sft
from alignjax.models import attention, block, config, kernels, sight, tiled_attention, transformer
from alignjax.parallel import axes
from alignjax.parallel import mesh as meshes
from alignjax.training import optim, update
from alignjax.training.algorithm import TrainState
from tests.models import test_attention_kernels as models

KINDS = ("full", "sliding", "chunked", "nope")


def rows(rng, count, length, *, packed=True, gaps=0):
    """Positions and segments [B, T]: segments in order or not, padding on either side or within."""
    positions, segments = np.zeros((2, count, length), np.int32)
    for row in range(count):
        at, number = int(rng.integers(0, 4)), 0
        while at < length:
            size = int(rng.integers(1, length // 2)) if packed else length - at
            size, number = min(size, length - at), number + 1
            start = int(rng.integers(0, 5))
            segments[row, at : at + size] = number
            positions[row, at : at + size] = np.arange(start, start + size)
            at += size + int(rng.integers(0, 2))
        for _ in range(gaps):
            segments[row, rng.integers(0, length)] = 0
    return positions, segments


def case(seed, *, heads, widths, lengths, kind="full", order="slots", count=3):
    """(query, key, value, cotangent, sight, mask by a loop over rules) of random rows."""
    rng = np.random.default_rng(seed)
    (kv, group), (h, u), (t, s), b = heads, widths, lengths, count
    positions, segments = rows(rng, b, max(t, s), gaps=3)
    if order == "shuffled":  # slots in no order at all
        turn = np.stack([rng.permutation(max(t, s)) for _ in range(b)])
        positions, segments = (np.take_along_axis(x, turn, 1) for x in (positions, segments))
    near = [x[:, max(t, s) - t :] for x in (positions, segments)]  # the newest tokens
    far = [x[:, :s] for x in (positions, segments)]
    window = 11
    mask = np.zeros((b, t, s), bool)
    for row, i, j in itertools.product(range(b), range(t), range(s)):
        here, there = int(near[0][row, i]), int(far[0][row, j])
        same = near[1][row, i] == far[1][row, j] > 0
        rule = {
            "sliding": here - there < window,
            "chunked": here // window == there // window,
        }
        mask[row, i, j] = same and there <= here and rule.get(kind, True)
    arrays = [
        rng.normal(size=size)
        for size in ((b, t, kv, group, h), (b, kv, s, h), (b, kv, s, u), (b, t, kv, group, u))
    ]
    seen = sight.sight(*map(jnp.asarray, (*near, *far)), kind=kind, window=window)
    return arrays, seen, mask


def by_hand(query, key, value, *sinks, cotangent, mask, scale, softcap):
    """(result, gradients of query, key, value, sinks) in float64, where something is seen."""
    raw = scale * np.einsum("btkgh,bksh->bkgts", query, key)
    bent = np.tanh(raw / softcap) if softcap else raw
    scores = np.where(mask[:, None, None], softcap * bent if softcap else raw, -np.inf)
    if sinks:  # one more key, that all see and whose value is 0
        sink = np.broadcast_to(sinks[0][None, :, :, None, None], (*scores.shape[:-1], 1))
        scores = np.concatenate([scores, sink], axis=-1)
    top = np.maximum(scores.max(-1, keepdims=True), -1e9)
    weights = np.exp(scores - top)
    weights = weights / np.maximum(weights.sum(-1, keepdims=True), 1e-300)
    taken, weights = weights[..., key.shape[2] :], weights[..., : key.shape[2]]
    result = np.einsum("bkgts,bksu->btkgu", weights, value)
    by_weight = np.einsum("btkgu,bksu->bkgts", cotangent, value)
    inner = (weights * by_weight).sum(-1, keepdims=True)
    slope = weights * (by_weight - inner) * (1 - bent**2 if softcap else 1.0) * scale
    return (
        result,
        np.einsum("bkgts,bksh->btkgh", slope, key),
        np.einsum("bkgts,btkgh->bksh", slope, query),
        np.einsum("bkgts,btkgu->bksu", weights, cotangent),
        *([-(taken * inner).sum((0, 3, 4))] if sinks else []),
    )


CASES = {
    "full": {},
    "groups": {"heads": (2, 3)},
    "sliding": {"kind": "sliding"},
    "chunked": {"kind": "chunked"},
    "latent widths": {"widths": (12, 5), "heads": (4, 1)},
    "shuffled": {"order": "shuffled"},
    "cache": {"lengths": (24, 61)},
    "softcap": {"softcap": 3.0},
    "sinks": {"sinks": True, "heads": (2, 3), "kind": "sliding"},
    "sinks in a cache": {"sinks": True, "lengths": (24, 61)},
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_float64(name):
    settings = {"heads": (2, 1), "widths": (8, 8), "lengths": (53, 53), "softcap": 0.0}
    settings |= CASES[name]
    softcap, with_sinks = settings.pop("softcap"), settings.pop("sinks", False)
    (*arrays, cotangent), seen, mask = case(len(name), **settings)
    if with_sinks:
        arrays.append(2 * np.random.default_rng(1).normal(size=settings["heads"]))
    numbers = {"scale": 0.3, "softcap": softcap}
    expected = by_hand(*arrays, cotangent=cotangent, mask=mask, **numbers)

    @jax.jit
    def run(cotangent, *inputs):
        def tiles(query, key, value, sinks=None):
            own = {**numbers, "sinks": sinks, "tile": 16}
            return tiled_attention.attend(query, key, value, seen, **own)

        result, back = jax.vjp(tiles, *inputs)
        return result, *back(cotangent)

    found = run(*(jnp.asarray(x, jnp.float32) for x in (cotangent, *arrays)))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-6 * max(1, np.abs(other).max()))


def test_tiles_that_nothing_sees_are_skipped_and_no_others():
    positions, segments = rows(np.random.default_rng(1), 4, 96, gaps=2)
    for kind in KINDS:
        seen = sight.sight(*map(jnp.asarray, (positions, segments) * 2), kind=kind, window=11)
        sizes = tiled_attention._Sizes(16, 16, 1, 1, 1.0, 0.0)
        first, end = map(np.asarray, tiled_attention._bounds(sizes, seen))
        tiles = np.asarray(sight.visible(seen)).reshape(4, 6, 16, 6, 16).any((2, 4))
        inside = np.arange(6) >= first[..., None]
        inside &= np.arange(6) < end[..., None]
        assert not (tiles & ~inside).any()
        span = np.where(tiles.any(-1), 6 - tiles[..., ::-1].argmax(-1) - tiles.argmax(-1), 0)
        assert (end - first).sum() == span.sum(), kind  # slots are in order here


def test_numbers_too_large_for_their_order_skip_nothing_that_is_seen():
    rng = np.random.default_rng(2)
    positions, segments = rows(rng, 2, 48)
    positions, segments = positions + 2**24 + 1, np.where(segments, segments + 2**28, 0)
    seen = sight.sight(*map(jnp.asarray, (positions, segments) * 2))
    first, end = tiled_attention._bounds(tiled_attention._Sizes(8, 8, 1, 1, 1.0, 0.0), seen)
    tiles = np.asarray(sight.visible(seen)).reshape(2, 6, 8, 6, 8).any((2, 4))
    inside = (np.arange(6) >= first[..., None]) & (np.arange(6) < end[..., None])
    assert not (tiles & ~np.asarray(inside)).any()


@pytest.mark.parametrize("kind", models.some(models.KINDS, ["mla"]))
def test_models_equal_those_with_written_out_scores(kind):
    batch = models.packed(3, 60)
    small = {**models.KINDS[kind], "window": min(models.KINDS[kind].get("window", 0), 20)}
    expected = models.run(models.shape(attention_kernel="reference", **small), batch)
    settings = models.shape(attention_kernel="tiled", remat="dots", unroll=2, **small)
    models.assert_same(models.run(settings, batch), expected)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", models.MESHES)
@pytest.mark.parametrize("name", ["windows", "sinks"])
def test_models_on_meshes(sizes, name):
    batch, kind = models.packed(4, 64), models.KINDS[name]
    expected = models.run(models.shape(attention_kernel="reference", **kind), batch)
    with meshes.use(meshes.make_mesh(meshes.MeshConfig(**models.MESHES[sizes]))):
        found = models.run(models.shape(attention_kernel="tiled", **kind), batch)
    models.assert_same(found, expected)


def test_every_device_of_a_mesh_has_its_own_queries():
    """Rows, heads and times in parts; keys' gradients are summed over the times."""
    (*arrays, cotangent), seen, mask = case(
        7, heads=(2, 1), widths=(4, 4), lengths=(32, 32), count=4
    )
    arrays.append(np.random.default_rng(1).normal(size=(2, 1)))
    expected = by_hand(*arrays, cotangent=cotangent, mask=mask, scale=0.5, softcap=0.0)

    @jax.jit
    def run(query, key, value, sinks, cotangent, seen):
        near, far = "batch time kv group head", "batch kv slot head"
        inputs = [
            axes.shard(x, names)
            for x, names in (
                *((query, near), (key, far), (value, far)),
                *((sinks, "kv group"), (cotangent, near)),
            )
        ]
        seen = jax.tree.map(lambda x: axes.shard(x, "batch time"), seen)
        result, back = jax.vjp(
            lambda *own: tiled_attention.attend(*own[:3], seen, scale=0.5, sinks=own[3], tile=8),
            *inputs[:4],
        )
        return result, *back(inputs[4])

    inputs = [np.asarray(x, np.float32) for x in (*arrays, cotangent)]
    with meshes.use(meshes.make_mesh(meshes.MeshConfig(**models.MESHES["seq"]))):
        found = jax.device_get(run(*inputs, jax.device_get(seen)))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-6 * max(1, np.abs(other).max()))


def test_rows_under_vmap_and_a_query_that_sees_nothing():
    (query, key, value, _), seen, mask = case(5, heads=(2, 2), widths=(4, 4), lengths=(20, 20))
    run = jax.vmap(
        lambda *one: tiled_attention.attend(
            *(x[None] for x in one[:3]), jax.tree.map(lambda x: x[None], one[3]), scale=1.0, tile=8
        )[0]
    )
    arrays = [jnp.asarray(x, jnp.float32) for x in (query, key, value)]
    found = np.asarray(run(*arrays, seen))
    blind = ~mask.any(-1)
    assert blind.any()
    assert (found[blind] == 0).all()
    expected = np.asarray(attention.attend(*arrays, jnp.asarray(mask), scale=1.0))
    np.testing.assert_allclose(found[~blind], expected[~blind], atol=2e-6)


def lowered_step(**changes):
    """An SFT step of 2 rows of 1024 tokens, traced."""
    model = transformer.transformer(models.shape(layers=4, vocab_size=64, **changes))
    params = jax.eval_shape(model.init, jax.random.key(0))
    tx = optim.make_optimizer(optim.OptimConfig(), params, 10)
    state = TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32),
        params=params,
        opt_state=jax.eval_shape(tx.init, params),
        carry=(),
    )
    ids = jax.ShapeDtypeStruct((2, 1024), jnp.int32)
    batch = dict.fromkeys(("tokens", "positions", "segments", "loss_mask"), ids)
    run = update.make_update(sft.sft(model, sft.SftConfig()).loss, tx)
    return run.lower(state, {}, batch, jax.eval_shape(lambda: jax.random.key(0)))


def test_a_step_has_no_scores_of_whole_rows():
    assert "1024x1024x" not in lowered_step().as_text()
    assert "1024x1024x" in lowered_step(attention_kernel="reference").as_text()


@pytest.mark.slow
def test_layers_in_one_step_of_the_scan_still_recompute():
    sizes = {
        keep: lowered_step(unroll=4, remat=keep).compile().memory_analysis().temp_size_in_bytes
        for keep in ("auto", "none")
    }
    assert sizes["auto"] < 0.85 * sizes["none"]  # merged again they would be equal


def test_layers_that_recompute_stay_in_loops():
    shape = config.TransformerConfig(layers=6, unroll=6)
    assert transformer.unrolled(shape, 6, "none") == 6
    assert transformer.unrolled(shape, 6, "dots") == 3
    assert transformer.unrolled(shape, 7, "dots") == 1
    with axes.on("tpu"):
        assert transformer.unrolled(shape, 6, "dots") == 6


def test_auto_is_tiles_where_scores_are_many():
    assert kernels.choose("auto", 512, 512, dtype="float32") == "tiled"
    assert kernels.choose("auto", 1, 4096, dtype="float32", whole=False) == "reference"
    assert kernels.choose("auto", 16, 16, dtype="float32") == "reference"
    assert kernels.choose("splash", 512, 512, dtype="float32", whole=False) == "reference"
    assert kernels.choose("reference", 512, 512, dtype="float32") == "reference"
    for platform, dtype, expected in (
        ("tpu", "float32", "splash"),
        ("gpu", "float32", "tiled"),
        ("gpu", "bfloat16", "reference"),
    ):
        with axes.on(platform):
            assert kernels.choose("auto", 2048, 2048, dtype=dtype) == expected
            assert block.kept(config.TransformerConfig(), 2**20, sparse=False) == "none"
    assert block.kept(config.TransformerConfig(), 2**20, sparse=False) == "dots"
    assert block.kept(config.TransformerConfig(), 2**20, sparse=True) == "none"
    for tokens, keep in ((1023, "none"), (1024, "dots")):
        assert block.kept(config.TransformerConfig(width=256), tokens, sparse=False) == keep
    assert block.kept(config.TransformerConfig(width=64), 3072, sparse=False) == "none"
