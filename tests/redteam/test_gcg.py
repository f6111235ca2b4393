"""Suffixes by gradient: the gradient, the loss with a shared prefix, and what a search finds."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.core import struct
from alignjax.models import transformer
from alignjax.models.config import TransformerConfig
from alignjax.redteam import gcg

SHAPE = TransformerConfig(
    vocab_size=48, layers=1, width=16, heads=2, kv_heads=2, head_dim=8, ff=32, unroll=1, tied=False
)
TASK = gcg.Task(before=(3, 9, 4, 17, 5), after=(7, 2), wanted=(21, 30))
LEGAL = np.ones(48, bool)


def network(seed: int = 0, scale: float = 50.0):
    """A random network whose answers depend on what it reads: embeddings of about unit size."""
    model = transformer.transformer(SHAPE)
    params = model.init(jax.random.key(seed))
    return model, struct.replace(params, embed=params.embed * scale)


@pytest.fixture(scope="module")
def own():
    model, params = network()
    return model, params, gcg.Searcher(model, params, rows=16)


@functools.cache
def whole_row(model):
    @jax.jit
    def logprobs(params, ids):
        positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
        hidden, _ = model.hidden(params, ids, positions=positions, segments=jnp.ones_like(ids))
        return jax.nn.log_softmax(hidden @ model.unembedding(params))

    return logprobs


def whole_loss(model, params, task, suffix):
    """Without a cache, by log-softmax of whole rows."""
    ids = jnp.array([[*task.before, *suffix, *task.after, *task.wanted]])
    logits = whole_row(model)(params, ids)
    count = len(task.wanted)
    told = [logits[0, -count - 1 + i, token] for i, token in enumerate(task.wanted)]
    return -float(np.mean(told))


def test_losses_behind_a_shared_prefix_are_those_of_whole_rows(own):
    model, params, searcher = own
    suffixes = np.random.default_rng(0).integers(0, 48, (19, 3)).astype(np.int32)
    told = searcher.losses(TASK, suffixes)
    plain = [whole_loss(model, params, TASK, suffix) for suffix in suffixes]
    np.testing.assert_allclose(told, plain, atol=2e-6)


def test_the_gradient_is_that_of_finite_differences(own):
    model, params, searcher = own
    suffix = np.array([11, 40, 6], np.int32)
    ids = jnp.array([*TASK.before, *suffix, *TASK.after, *TASK.wanted], jnp.int32)
    hot = jax.nn.one_hot(suffix, 48)

    @jax.jit
    def loss(onehot):
        return gcg.relaxed_loss(model, params, ids, len(TASK.before), onehot, len(TASK.wanted))

    found = searcher.gradient(TASK, suffix)
    assert float(loss(hot)) == pytest.approx(searcher.losses(TASK, suffix[None])[0], abs=2e-6)
    rng = np.random.default_rng(1)
    for _ in range(8):
        way = rng.normal(size=hot.shape).astype(np.float32)
        way /= np.linalg.norm(way)
        far = 0.02
        slope = (float(loss(hot + far * way)) - float(loss(hot - far * way))) / (2 * far)
        assert abs(slope - np.sum(found * way)) < 1e-4 * max(1.0, np.linalg.norm(found))


def test_tied_embeddings_are_not_longer_for_the_answer():
    """The rows of mixtures must not stand in the softmax."""
    tied = TransformerConfig(vocab_size=48, layers=1, width=16, heads=2, kv_heads=2, head_dim=8,
                             ff=32, unroll=1)  # fmt: skip
    model = transformer.transformer(tied)
    params = model.init(jax.random.key(0))
    suffix = np.array([11, 40, 6], np.int32)
    ids = jnp.array([*TASK.before, *suffix, *TASK.after, *TASK.wanted], jnp.int32)
    hot = jax.nn.one_hot(suffix, 48)
    told = jax.jit(lambda hot: gcg.relaxed_loss(model, params, ids, 5, hot, 2))(hot)
    assert float(told) == pytest.approx(whole_loss(model, params, TASK, suffix), abs=2e-6)


def test_defaults_are_those_of_nanogcg():
    config = gcg.GcgConfig()
    assert (config.steps, config.width, config.top, config.replaced, config.tokens) == (
        250, 512, 256, 1, 20,
    )  # fmt: skip


def test_candidates_change_one_place_to_an_id_of_steep_descent():
    rng, suffix = np.random.default_rng(0), np.array([1, 2, 3])
    gradient = rng.normal(size=(3, 48))
    legal = np.ones(48, bool)
    legal[np.argmin(gradient[0])] = False  # the steepest may not stand there
    config = gcg.GcgConfig(tokens=3, width=200, top=4)
    found = gcg.candidates(suffix, gradient, legal, config, rng)
    best = np.argsort(np.where(legal, gradient, np.inf), axis=1)[:, :4]
    for row in found:
        (places,) = np.nonzero(row != suffix)
        assert len(places) <= 1
        assert all(row[p] in best[p] for p in places)
    assert len({tuple(row) for row in found}) > 8


def test_the_best_loss_never_rises_and_only_suffixes_that_come_back_are_kept(own):
    _, _, searcher = own
    config = gcg.GcgConfig(steps=12, width=16, top=16, tokens=3, rows=16)

    def keeps(suffix):
        return sum(suffix) % 3 != 1  # a third of all would be read otherwise

    found = gcg.search(searcher, TASK, LEGAL, config, keeps=keeps)
    assert len(found.losses) == 13
    assert all(b <= a for a, b in itertools.pairwise(found.losses))
    assert found.losses[-1] < found.losses[0]
    assert keeps(found.suffix)
    assert found.dropped > 10
    assert found.evaluations + found.dropped <= 1 + 12 * 16
    again = searcher.losses(TASK, np.array([found.suffix], np.int32))[0]
    assert again == pytest.approx(found.loss, abs=1e-6)
    tail = 3 + 2 + 2
    assert found.tokens == 5 + found.evaluations * tail + 12 * (5 + tail)


def test_a_search_without_a_target_is_refused(own):
    _, _, searcher = own
    with pytest.raises(ValueError, match="must have a wanted answer"):
        gcg.search(searcher, TASK._replace(wanted=()), LEGAL, gcg.GcgConfig(tokens=3))
    with pytest.raises(ValueError, match="re-tokenise to itself; got none in 1000"):
        gcg.search(searcher, TASK, LEGAL, gcg.GcgConfig(tokens=3), keeps=lambda suffix: False)


@pytest.mark.slow
def test_a_search_finds_the_best_of_all_suffixes(optimised, capsys):
    """V = 48, 3 tokens: 110,592 suffixes ranked, 20 goals; 3,200 evaluations reach the best .01%
    in 15 of 20, where as many at random do in about 27 of 100."""
    model, params = network()
    whole, few = (gcg.Searcher(model, params, rows=rows) for rows in (4096, 64))
    every = np.array(list(itertools.product(range(48), repeat=3)), np.int32)
    rng, reached, by_chance = np.random.default_rng(5), 0, 0
    for seed in range(20):
        before, after, wanted = (tuple(rng.integers(0, 48, n).tolist()) for n in (5, 1, 2))
        task = gcg.Task(before, after, wanted)
        losses = whole.losses(task, every)
        best = np.sort(losses)[len(every) // 10_000 - 1] + 1e-5  # two programs round apart
        config = gcg.GcgConfig(steps=50, width=64, top=16, tokens=3, seed=seed)
        found = gcg.search(few, task, LEGAL, config)
        assert found.evaluations <= 3201
        reached += found.loss <= best
        by_chance += losses[rng.integers(0, len(every), 3200)].min() <= best
    with capsys.disabled():
        print(f"\ngcg: {reached} of 20 goals in the best .01%; at random {by_chance}")
    assert reached >= 15
    assert by_chance <= 12
