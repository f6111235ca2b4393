"""Packed rows: networks read them side by side, losses read them as they were."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.algorithms import grpo, policy_gradient
from alignjax.models import sight, transformer
from alignjax.parallel import hosts
from alignjax.parallel import mesh as meshes
from alignjax.rollouts import pack
from alignjax.sampling import transforms
from alignjax.training import algorithm, update
from alignjax.worlds import chain
from tests.training import tiny

WORLD = chain.ChainConfig(modulus=3, shortest=1, longest=2, prompts=16)


def rows_of(layout, number):
    """(packed row, slots) of a row."""
    found, slot = np.argwhere(layout["member"] == number)[0]
    start = layout["start"][found, slot]
    return found, start


@pytest.mark.parametrize("multiple", [1, 3, 8])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_token_stands_once_and_in_order(seed, multiple):
    rng = np.random.default_rng(seed)
    lengths, width = rng.integers(0, 12, 24), 11
    layout = pack.plan(lengths, width, multiple)
    assert layout["source"].shape[0] % multiple == 0
    assert (layout["segments"] > 0).sum() == lengths.sum()
    for number, length in enumerate(lengths):
        if not length:
            assert number not in layout["member"]
            continue
        row, start = rows_of(layout, number)
        there = slice(start, start + length)
        np.testing.assert_array_equal(
            layout["source"][row, there], number * width + np.arange(length)
        )
        np.testing.assert_array_equal(layout["positions"][row, there], np.arange(length))
        assert len(set(layout["segments"][row, there])) == 1
        assert layout["place"][number] // layout["member"].shape[1] == row


def test_numbers_come_back_row_by_row():
    rng = np.random.default_rng(3)
    lengths, width = rng.integers(1, 9, 10), 9
    numbers = rng.integers(1, 90, (10, width)).astype(np.int32)
    layout = pack.make_layout(jnp.asarray(lengths), width, 2)
    mask = rng.random((10, width)) < 0.5
    packed = pack.packed(jnp.asarray(numbers), jnp.asarray(mask), layout)
    real = np.arange(width) < lengths[:, None]
    assert np.asarray(packed["counted"]).sum() == (mask & real).sum()
    back = pack.in_order({"x": packed["tokens"]}, layout)["x"]
    np.testing.assert_array_equal(np.where(real, back, 0), np.where(real, numbers, 0))
    held = pack.ungrouped(pack.grouped({"lengths": jnp.asarray(lengths)}, layout))["lengths"]
    assert sorted(np.asarray(held)[np.asarray(held) > 0]) == sorted(lengths)


def grouped_rows(rng, groups, size, width):
    """(lengths, prompt lengths) of rows, of which one is left out."""
    prompts = np.repeat(rng.integers(1, width // 2, groups), size)
    lengths = prompts + rng.integers(1, width - prompts + 1)
    lengths[3] = 0
    return lengths, prompts


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rows_of_a_prompt_share_it(seed):
    """Each row is its trunk and its branch; of each packed row a prompt's tokens stand once."""
    rng, width, size = np.random.default_rng(seed), 24, 4
    lengths, prompts = grouped_rows(rng, 8, size, width)
    layout = pack.plan(lengths, width, 2, prompts=prompts, group=size)
    tokens = np.arange(len(lengths) * width).reshape(-1, width)
    tokens[:] = np.where(
        np.arange(width) < prompts[:, None],
        np.arange(len(lengths))[:, None] // size * 1000 + np.arange(width),
        100_000 + tokens,
    )
    read, seen = tokens.reshape(-1)[layout["source"]], []
    for number in np.flatnonzero(lengths):
        row, start = rows_of(layout, number)
        own = layout["segments"][row]
        last = own[start + lengths[number] - 1]
        trunk = last // sight.BRANCHES * sight.BRANCHES
        there = (own == last) | (own == trunk)
        order = np.argsort(layout["positions"][row][there])
        np.testing.assert_array_equal(read[row][there][order], tokens[number, : lengths[number]])
        branch = np.flatnonzero(own == last)
        assert (
            branch[0] == start + prompts[number] - 1
        )  # the prompt's last token predicts the first
        assert layout["place"][number] // layout["member"].shape[1] == row
        seen.append((row, last))
    assert len(set(seen)) == len(seen)
    trunks = layout["segments"][layout["segments"] % sight.BRANCHES == 0]
    assert (trunks > 0).sum() < (prompts - 1)[lengths > 0].sum()


def test_sharing_takes_fewer_rows():
    rng = np.random.default_rng(0)
    prompts = np.full(64, 64)
    lengths = prompts + np.clip(rng.lognormal(np.log(40), 1, 64).astype(int), 1, 256)
    apart = pack.plan(lengths, 320, 1)
    shared = pack.plan(lengths, 320, 1, prompts=prompts, group=4)
    assert shared["source"].shape[0] <= 0.8 * apart["source"].shape[0]


def test_short_rows_need_fewer_packed_ones_and_long_ones_no_more():
    short, long = np.full(64, 5), np.full(64, 40)
    assert pack.plan(short, 40, 1)["source"].shape[0] == 8
    assert pack.plan(long, 40, 1)["source"].shape[0] == 64


def test_heights_are_sixteenths_of_all_rows():
    """So that at most one row in sixteen is empty, and few programs are compiled."""
    heights = [pack.plan(np.full(64, n), 40, 1)["source"].shape[0] for n in range(1, 41)]
    fewest = [-(-64 // (40 // n)) for n in range(1, 41)]
    assert all(0 <= h - f < 4 for h, f in zip(heights, fewest, strict=True)), heights
    assert all(h % 4 == 0 for h in heights), heights


def ready(**options):
    """(algorithm, state, frozen, batch) of GRPO on ChainWorld, on the mesh that is set."""
    config = grpo.GrpoConfig(
        reward="gold",
        group=4,
        sampling=transforms.SamplingConfig(max_new_tokens=12),
        **options,
    )
    corpus = WORLD.make(print)
    model = transformer.transformer(dataclasses.replace(tiny.shape(), vocab_size=corpus.vocab_size))

    def reward(frozen, samples, columns):
        """Graded, so that every group has a signal."""
        return jnp.sum(samples.tokens == chain.EOS, axis=1) + 0.1 * samples.lengths

    method = policy_gradient.policy_gradient(
        model, config, reward=reward, eos=corpus.eos, pad=corpus.pad, micro_batches=2
    )
    params = model.init(jax.random.key(0))
    state = algorithm.TrainState(
        step=jnp.zeros((), jnp.int32), params=params, opt_state=(), carry=method.carry
    )
    frozen = {"reference": jax.tree.map(lambda x: 1.1 * x, params)}
    table = corpus.read("prompts", "train")
    return method, state, frozen, hosts.to_global({name: x[:8] for name, x in table.items()})


def gradients(micro_batches=1, **options):
    method, state, frozen, batch = ready(**options)
    rows, _, _ = method.collect(state, frozen, batch, jax.random.key(1))
    moved = jax.tree.map(lambda x: x + 0.01 * jnp.sign(x), state.params)
    run = jax.jit(update.make_gradients(method.loss, micro_batches=micro_batches))
    found, metrics = run(moved, frozen, rows, jax.random.key(2))
    return jax.tree.map(np.asarray, found), rows, metrics


@pytest.mark.parametrize(
    "options",
    [
        {"method": "dapo"},
        {"method": "grpo", "epochs": 2},
        {"method": "gspo", "epochs": 2},
        {"method": "dr_grpo", "kl_in_reward": 0.1},
        {"method": "dapo", "advantages": "otb"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_packed_is_unpacked(options):
    plain, rows, _ = gradients(**options)
    found, packed, _ = gradients(pack=True, **options)
    assert packed["tokens"].shape[0] < rows["tokens"].shape[0]
    assert packed["tokens"].shape[1] == rows["tokens"].shape[1]
    assert np.max(packed["segments"]) > sight.BRANCHES  # prompts are shared
    size = max(np.abs(x).max() for x in jax.tree.leaves(plain))
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(other, one, atol=2e-5 * size)


@pytest.mark.parametrize("sizes", [{"data": 8}, {"data": 4, "model": 2}])
def test_on_meshes_and_in_micro_batches(sizes):
    plain, _, _ = gradients()
    with meshes.use(meshes.make_mesh(meshes.MeshConfig(**sizes), jax.devices())):
        found, _, metrics = gradients(micro_batches=2, pack=True)
    size = max(np.abs(x).max() for x in jax.tree.leaves(plain))
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(other, one, atol=2e-5 * size)
    assert 0 < float(metrics["drift"].value) < 1  # the policy was moved: the gauge shows it
