"""Rows that name different adapters give what each adapter gives alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.models import transformer
from alignjax.models.adapters import adapt, lora, many, sites
from alignjax.sampling import generate, transforms
from alignjax.training import update
from tests.models.adapters import kinds
from tests.training import tiny

MODEL = transformer.transformer(tiny.shape())
ADAPTED = adapt.adapt(MODEL, lora.LoraConfig(rank=3, targets=sites.TARGETS))
BASE = {"base": kinds.roughen(MODEL.init(jax.random.key(7)), size=0.1)}
# Small enough that fp32 itself is within 1e-5, whatever order a machine adds in.
OWN = [kinds.roughen(ADAPTED.init(jax.random.key(n)), seed=n, size=0.1) for n in range(3)]
IDS = np.array([2, 0, 1, 1, 0, 2, 2, 0], np.int32)


def test_a_stack_holds_each_adapter():
    stacked = many.stack(OWN)
    for number, own in enumerate(OWN):
        jax.tree.map(np.testing.assert_array_equal, many.take(stacked, number), own)


def test_each_row_computes_its_own_adapter():
    batch = tiny.batch("sft", 0, 8)
    arguments = batch["tokens"], batch["positions"], batch["segments"]
    mixed = ADAPTED.bind(many.select(many.stack(OWN), jnp.asarray(IDS)), BASE)
    found = jax.jit(lambda tree: kinds.logits(MODEL, tree, *arguments))(mixed)
    alone = [np.asarray(kinds.logits(MODEL, ADAPTED.bind(o, BASE), *arguments)) for o in OWN]
    for row, number in enumerate(IDS):
        np.testing.assert_allclose(found[row], alone[number][row], atol=1e-5)
        assert np.abs(found[row] - alone[(number + 1) % 3][row]).max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_an_adapters_gradient_comes_from_its_rows_alone(name):
    method = tiny.make(name, ADAPTED)
    batch = jax.tree.map(jnp.asarray, tiny.batch(name, 0, 8))
    frozen = {**BASE, "reference": adapt.empty(OWN[0])}
    if method.annotate:
        batch |= method.annotate(frozen, batch)
    key, stacked = jax.random.key(0), many.stack(OWN)
    run = jax.jit(update.make_gradients(many.by_row(method.loss), micro_batches=2))
    found, _ = run(stacked, frozen, {**batch, "adapter": jnp.asarray(IDS)}, key)
    for number, own in enumerate(OWN):
        kept = number == IDS
        rows = {k: x[kept] for k, x in batch.items()}
        alone, _ = update.make_gradients(method.loss)(own, frozen, rows, key)
        # Means over all rows and over its own differ by their weights.
        mask = np.asarray(batch["loss_mask"])
        share = mask[kept].sum() / mask.sum() if name == "sft" else kept.mean()
        jax.tree.map(
            lambda a, b, share=share: np.testing.assert_allclose(
                a, share * b, rtol=1e-3, atol=1e-6
            ),
            many.take(found, number),
            alone,
        )
    ids = jnp.where(IDS == 1, 0, IDS)
    without, _ = run(stacked, frozen, {**batch, "adapter": ids}, key)
    for leaf in jax.tree.leaves(many.take(without, 1)):
        np.testing.assert_array_equal(leaf, 0)


def sampler(group=1, **options):
    config = transforms.SamplingConfig(max_new_tokens=6, temperature=0.0, **options)
    return generate.make_generate(
        MODEL, config, eos=tiny.EOS, pad=tiny.PAD, samples_per_prompt=group
    )


@pytest.mark.slow
@pytest.mark.parametrize("group", [1, 2])
def test_rows_keep_their_adapters_as_they_move_through_slots(group):
    given, key = tiny.prompts(0, 32 // group), jax.random.key(0)
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 3, 32 // group))
    mixed = ADAPTED.bind(many.select(many.stack(OWN), ids), BASE)
    wanted = sampler(group)(mixed, given["prompts"], given["lengths"], key)
    for options in ({"slots": 16, "rungs": 2, "chunk": 2}, {"rungs": 3, "chunk": 1}):
        found = sampler(group, **options)(mixed, given["prompts"], given["lengths"], key)
        np.testing.assert_array_equal(found.tokens, wanted.tokens)
    others = ADAPTED.bind(many.select(many.stack(OWN), (ids + 1) % 3), BASE)
    other = sampler(group)(others, given["prompts"], given["lengths"], key)
    assert (np.asarray(other.tokens) != np.asarray(wanted.tokens)).any(axis=1).sum() > 8


def test_sampling_serves_each_row_its_own_adapter():
    """Greedy completions of a mixed batch are those of each adapter alone."""
    sample = sampler()
    given = tiny.prompts(0, 8)
    key = jax.random.key(0)
    mixed = ADAPTED.bind(many.select(many.stack(OWN), jnp.asarray(IDS)), BASE)
    found = sample(mixed, given["prompts"], given["lengths"], key)
    rows = set()
    for number, own in enumerate(OWN):
        alone = sample(ADAPTED.bind(own, BASE), given["prompts"], given["lengths"], key)
        kept = number == IDS
        np.testing.assert_array_equal(found.tokens[kept], alone.tokens[kept])
        rows.add(np.asarray(alone.tokens).tobytes())
    assert len(rows) == 3


@pytest.mark.slow
def test_ranks_and_scales_belong_to_each_adapter():
    """Another rank, another alpha, rank-stabilised; and what drops out of each, with a key."""
    targets = ("query", "down")
    configs = [
        lora.LoraConfig(rank=3, targets=targets, dropout=0.5),
        lora.LoraConfig(rank=5, alpha=3.0, stabilised=True, targets=targets),
        lora.LoraConfig(rank=1, alpha=9.0, ranks=("down=4",), targets=targets),
    ]
    models = [adapt.adapt(MODEL, config) for config in configs]
    own = [kinds.roughen(m.init(jax.random.key(n)), seed=n) for n, m in enumerate(models)]
    stacked = many.stack(own)
    for number, tree in enumerate(own):
        jax.tree.map(np.testing.assert_array_equal, many.take(stacked, number), tree)
    batch = tiny.batch("sft", 0, 8)
    arguments = batch["tokens"], batch["positions"], batch["segments"]

    @jax.jit
    def logits(tree, key=None):
        return kinds.logits(MODEL, ADAPTED.bind(tree, BASE, key), *arguments)

    found, alone = logits(many.select(stacked, jnp.asarray(IDS))), [logits(tree) for tree in own]
    for row, number in enumerate(IDS):
        np.testing.assert_allclose(found[row], alone[number][row], atol=1e-5)
        assert np.abs(found[row] - alone[(number + 1) % 3][row]).max() > 0.01
    dropped = logits(many.select(stacked, jnp.asarray(IDS)), jax.random.key(0))
    moved = np.abs(dropped - found).max(axis=(1, 2))
    assert ((moved > 1e-3) == (IDS == 0)).all()
    gradient = jax.grad(lambda tree: jnp.sum(logits(many.select(tree, IDS)) ** 2))(stacked)
    query = gradient.blocks[0].attention.query
    up, down = query.up, query.down
    for number, rank in enumerate((3, 5, 1)):  # what only fills up a rank never moves
        assert np.abs(up[:, number, :rank]).max() > 0
        np.testing.assert_array_equal(up[:, number, rank:], 0)
        np.testing.assert_array_equal(down[:, number, ..., rank:], 0)


def test_targets_may_differ():
    """A weight that an adapter has no part on is the base's for its rows."""
    small = adapt.adapt(MODEL, lora.LoraConfig(rank=2, alpha=4.0, targets=("query",)))
    other = kinds.roughen(small.init(jax.random.key(0)))
    stacked = many.stack([other, OWN[0]])
    for number, own in enumerate((other, OWN[0])):
        taken = many.take(stacked, number)
        assert jax.tree.structure(taken) == jax.tree.structure(own)
        jax.tree.map(np.testing.assert_array_equal, taken, own)
    batch = tiny.batch("sft", 0, 2)
    arguments = batch["tokens"], batch["positions"], batch["segments"]
    run = jax.jit(lambda tree: kinds.logits(MODEL, tree, *arguments))
    mixed = run(ADAPTED.bind(many.select(stacked, jnp.array([1, 0])), BASE))
    np.testing.assert_allclose(mixed[1], run(small.bind(other, BASE))[1], atol=1e-5)
    np.testing.assert_allclose(mixed[0], run(ADAPTED.bind(OWN[0], BASE))[0], atol=1e-5)


def test_adapters_that_differ_are_refused():
    embedded = adapt.adapt(MODEL, lora.LoraConfig(targets=("query", "embed")))
    own = embedded.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"without DoRA, .* embeddings, .*; got EmbedLora"):
        many.stack([own, own])
    for name in ("dora", "ia3", "prefix"):
        own = kinds.model_of(name, MODEL).init(jax.random.key(0))
        with pytest.raises(ValueError, match="must be LoRA without DoRA"):
            many.stack([own, own])
    with pytest.raises(ValueError, match="got a head"):
        many.stack([MODEL.with_scalar(OWN[0])])
