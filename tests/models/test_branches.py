"""Rows that share their beginning: trunk and branches are read as the whole rows would be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.models import attention, sight, tiled_attention, transformer
from alignjax.models.config import DeltaConfig, MlaConfig, MoeConfig, RopeScaling
from alignjax.models.config_parts import LentConfig
from alignjax.parallel import mesh as meshes
from tests.models import test_lent_layers, test_short_conv, tiny

TRUNK, BRANCHES = 7, (5, 9, 1)  # tokens of the trunk, of each branch
OTHER = 6  # of a row of its own, beside them
SLOTS = 2 * (11 + 10 + 11 + 12)
SHAPES = (1, SLOTS, 2, 1, 4), (1, 2, SLOTS, 4), (1, 2, SLOTS, 4)  # query, key, value
LATENTS = MlaConfig(kv_rank=12, query_rank=8, rope_dim=4, value_dim=6)
DELTA = DeltaConfig(key_heads=2, value_heads=4, key_dim=4, value_dim=4)
KINDS = {
    "full": {},
    "sliding": {"attention": ("sliding", "full"), "window": 4},
    "chunked": {"attention": ("chunked", "nope"), "window": 5},
    "sinks and a soft cap": {"sinks": True, "attention_softcap": 3.0},
    "latents": {"kv_heads": 4, "mla": LATENTS},
    "experts": {"moe": MoeConfig(experts=4, active=2, ff=12)},
    "lent keys": {
        **test_lent_layers.PARTS,
        **{"layers": 4, "lent": LentConfig(layers=2, ff=32), "norm_eps": 0.1},
    },
}


def model_of(**changes):
    return transformer.transformer(tiny.config(**changes))


def whole(rng):
    """Tokens, positions, segments [4, T]: each row is a trunk and a branch; the last one other."""
    trunk = rng.integers(0, 16, TRUNK)
    rows = [np.concatenate([trunk, rng.integers(0, 16, n)]) for n in BRANCHES]
    rows.append(rng.integers(0, 16, OTHER))
    width = max(map(len, rows))
    tokens, positions, segments = np.zeros((3, len(rows), width), np.int32)
    for n, row in enumerate(rows):
        tokens[n, : len(row)], positions[n, : len(row)] = row, np.arange(len(row))
        segments[n, : len(row)] = 1
    return tokens, positions, segments


def shared(tokens, segments):
    """The same rows with their trunk once, and where each one's tokens went: [4, T]."""
    lengths = segments.sum(1)
    places = [
        (0, range(TRUNK), sight.BRANCHES),
        *((n, range(TRUNK, lengths[n]), sight.BRANCHES + 1 + n) for n in range(len(BRANCHES))),
        (len(BRANCHES), range(OTHER), 2 * sight.BRANCHES + 1),
    ]
    flat = [(row, place, segment) for row, own, segment in places for place in own]
    row, position, segment = (np.array(x, np.int32)[None] for x in zip(*flat, strict=True))
    where = np.zeros(tokens.shape, np.int32)
    where[row[0], position[0]] = np.arange(row.shape[1])
    where[: len(BRANCHES), :TRUNK] = np.arange(TRUNK)
    return tokens[row[0], position[0]][None], position, segment, where


def states(model, params, tokens, positions, segments):
    return model.hidden(params, tokens, positions=positions, segments=segments)[0]


@pytest.mark.parametrize("kernel", ["reference", "tiled"])
@pytest.mark.parametrize("kind", KINDS)
def test_states_and_gradients_are_those_of_whole_rows(kind, kernel):
    changes = {**KINDS[kind], "attention_kernel": kernel}
    model, rng = model_of(**changes), np.random.default_rng(0)
    assert model.branches
    params = model.init(jax.random.key(1))
    params = jax.tree.map(lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size).reshape(x.shape)), params)
    tokens, positions, segments = whole(rng)
    packed = shared(tokens, segments)
    cotangent = rng.normal(size=(*tokens.shape, 16)) * segments[..., None]

    def by_row(params):
        found = states(model, params, tokens, positions, segments)
        return jnp.sum(found * cotangent), found

    def by_branch(params):
        found = states(model, params, *packed[:3])[0][packed[3]]
        return jnp.sum(found * cotangent), found

    one, apart = jax.jit(jax.grad(by_row, has_aux=True))(params)
    other, found = jax.jit(jax.grad(by_branch, has_aux=True))(params)
    real = segments > 0
    np.testing.assert_allclose(np.asarray(found)[real], np.asarray(apart)[real], atol=2e-5)
    size = max(np.abs(x).max() for x in jax.tree.leaves(one))
    for left, right in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_allclose(right, left, atol=2e-5 * size)


@pytest.mark.parametrize("kind", ["full", "sliding"])
def test_tiles_of_a_trunk_are_not_passed_over(kind):
    """Branches far behind their trunk, other groups between: tiles of 8 find what a mask shows."""
    rng, segments, positions = np.random.default_rng(4), [], []
    for group in (1, 2):
        base = group * sight.BRANCHES
        for segment, begin, size in ((base, 0, 11), *((base + n, 11, 9 + n) for n in (1, 2, 3))):
            segments += [segment] * size
            positions += range(begin, begin + size)
    seen = sight.sight(*map(jnp.asarray, ([positions], [segments]) * 2), kind=kind, window=14)
    query, key, value = (jnp.asarray(rng.normal(size=s)) for s in SHAPES)

    def run(seen):
        return lambda *qkv: jnp.sum(jnp.sin(attention.attend(*qkv, seen, scale=0.5)))

    def tiled(*qkv):
        return jnp.sum(jnp.sin(tiled_attention.attend(*qkv, seen, scale=0.5, tile=8)))

    one = jax.value_and_grad(run(sight.visible(seen)), argnums=(0, 1, 2))(query, key, value)
    other = jax.jit(jax.value_and_grad(tiled, argnums=(0, 1, 2)))(query, key, value)
    for left, right in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_allclose(right, left, atol=1e-5)


def test_a_branch_sees_no_other_and_a_trunk_sees_no_branch():
    packed = shared(*(whole(np.random.default_rng(0))[n] for n in (0, 2)))
    _, positions, segments, _ = map(jnp.asarray, packed)
    seen = np.asarray(sight.visible(sight.sight(positions, segments, positions, segments)))[0]
    own, place = np.asarray(segments)[0], np.asarray(positions)[0]
    for i in range(len(own)):
        for j in range(len(own)):
            same = own[i] == own[j] or own[j] == own[i] // sight.BRANCHES * sight.BRANCHES
            assert seen[i, j] == (same and place[j] <= place[i]), (i, j)


def test_padding_is_no_trunk():
    """Segments below the first trunk have the number 0 above them, which padding has too."""
    segments = jnp.array([[1, 1, 0, 0]])
    seen = sight.visible(
        sight.sight(jnp.array([[0, 1, 0, 0]]), segments, jnp.zeros((1, 4)), segments)
    )
    assert np.asarray(seen)[0].tolist()[1] == [True, True, False, False]
    assert not np.asarray(seen)[0, 2:].any()


def test_models_that_cannot_say_so():
    base = {"layers": 2}
    without = [
        {"attention": ("delta", "full"), "delta": DELTA},
        {**test_short_conv.PARTS},
        {"rope": RopeScaling(kind="dynamic", factor=2.0, original_length=8)},
        {"moe": MoeConfig(experts=4, active=2, ff=12, balance_loss=0.1)},
        {"attention_kernel": "splash"},
    ]
    assert [model_of(**base | changes).branches for changes in without] == [False] * 5
    assert model_of(**base).branches


def test_on_a_mesh():
    model, rng = model_of(), np.random.default_rng(2)
    params = model.init(jax.random.key(1))
    tokens, _, segments = whole(rng)
    packed = [np.repeat(x, 4, axis=0) for x in shared(tokens, segments)[:3]]
    alone = np.asarray(states(model, params, *packed))
    sizes = meshes.MeshConfig(data=4, model=2)
    with meshes.use(meshes.make_mesh(sizes, jax.devices())):
        model = model_of()
        params = jax.jit(model.init)(jax.random.key(1))
        run = jax.jit(lambda *args: states(model, *args))
        np.testing.assert_allclose(np.asarray(run(params, *packed)), alone, atol=2e-5)


def test_segments_that_do_not_branch_have_no_trunk():
    assert sight.trunk(jnp.arange(1, 100)).max() == 0
