"""The guard's loss by hand with missing labels and weights, its head, its rows and its refusals."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.algorithms import guard
from alignjax.core import struct
from alignjax.data import encoding, examples, records, rows
from alignjax.evals import ranks
from alignjax.models import scoring, transformer
from alignjax.parallel import hosts
from alignjax.parallel import mesh as meshes
from alignjax.text import chat
from alignjax.training import optim, stepping, update
from alignjax.worlds import traffic, traffic_corpus
from tests.training import tiny

MODEL = transformer.transformer(tiny.shape())
CONFIG = guard.GuardConfig(categories="a,b,c")
ROWS = 8
LABELS = np.array([[1, 0, np.nan], [0.25, np.nan, np.nan]] * 4, np.float32)
COMPILED = jax.jit(guard.guard(MODEL, CONFIG).loss)
WEIGHTS = np.array([1, 3, 0.5, 1, 1, 1, 2, 1], np.float32)


def params():
    policy = jax.jit(MODEL.init)(jax.random.key(7))
    head = 0.5 * jax.random.normal(jax.random.key(8), (policy.norm.size, 3))
    return struct.replace(MODEL.with_scalar(policy, 3), scalar=head)


def batch(labels=LABELS):
    return {**tiny.rows(5, ROWS), "labels": labels, "weight": WEIGHTS}


def loss_of(tree, columns):
    arrays = {name: jnp.asarray(x) for name, x in columns.items()}
    terms, metrics = COMPILED(tree, {}, arrays, jax.random.key(0))
    return float(terms["guard"].value), metrics


def test_the_loss_is_the_weighted_mean_over_the_labels_that_there_are():
    tree, columns = params(), batch()
    score = jax.jit(lambda tree, rows: scoring.sequence_scores(MODEL, tree, rows))
    logits = np.asarray(score(tree, columns), np.float64)
    assert logits.shape == (ROWS, 3)
    total = weight = 0.0
    for row, category in np.argwhere(np.isfinite(LABELS)):
        p, y, w = 1 / (1 + math.exp(-logits[row, category])), LABELS[row, category], WEIGHTS[row]
        total -= w * (y * math.log(p) + (1 - y) * math.log(1 - p))
        weight += w
    found, _ = loss_of(tree, columns)
    assert found == pytest.approx(total / weight, rel=1e-5)


def test_a_row_of_weight_two_is_the_row_twice():
    tree, columns = params(), batch()
    doubled = {**columns, "weight": np.array([2] + [1] * 7, np.float32)}
    again = {n: np.concatenate([x, x[:1]]) for n, x in columns.items()}
    again["weight"] = np.ones(9, np.float32)
    assert loss_of(tree, doubled)[0] == pytest.approx(loss_of(tree, again)[0], rel=1e-6)


def test_a_missing_label_has_no_gradient_and_no_logit_of_its_category_moves():
    tree, columns = params(), {n: jnp.asarray(x) for n, x in batch().items()}

    def total(head):
        terms, _ = COMPILED(struct.replace(tree, scalar=head), {}, columns, jax.random.key(0))
        return terms["guard"].value

    grad = np.asarray(jax.jit(jax.grad(total))(tree.scalar))
    assert np.all(np.isfinite(grad))
    assert np.all(grad[:, 2] == 0)
    assert np.all(np.abs(grad[:, :2]).sum(axis=0) > 0)


def test_the_head_starts_at_zero_so_that_the_first_loss_is_known():
    own = guard.guard(MODEL, CONFIG)
    tree = jax.jit(own.init)(jax.random.key(1), {})
    assert tree.scalar.shape == (16, 3)
    assert loss_of(tree, batch())[0] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.slow
def test_micro_batches_change_nothing():
    own = guard.guard(MODEL, CONFIG)
    tree = own.init(jax.random.key(1), {})
    columns = {n: jnp.asarray(x) for n, x in batch().items()}
    tx = optim.make_optimizer(tiny.optimizer(), tree, 10)
    losses = []
    for parts in (1, 4):
        state = stepping.make_state(own, lambda p: tx, jax.random.key(1), {"policy": params()})
        run = update.make_update(own.loss, tx, micro_batches=parts)
        for step in range(2):
            state, metrics = run(state, {}, columns, jax.random.key(step))
        losses.append(float(metrics["loss"].value))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_categories_are_those_of_the_data_in_their_order():
    with pytest.raises(ValueError, match="must be those of the data, in their order; got a,b,c"):
        guard.guard(MODEL, CONFIG, ("b", "a", "c"))
    with pytest.raises(ValueError, match="must name a category"):
        guard.guard(MODEL, guard.GuardConfig(categories=""))
    own = guard.guard(MODEL, CONFIG)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        own.prepare(batch(LABELS * 3))
    with pytest.raises(ValueError, match="3 columns with 0 labels"):
        own.prepare(batch(LABELS * np.nan))


def turn(role, text):
    return chat.Turn(role, text)


def row(labels, *turns):
    return rows.Labelled(turns=tuple(turns) or (turn(chat.HUMAN, "one two"),), labels=labels)


@pytest.fixture(scope="module")
def speaker():
    config = traffic_corpus.TrafficConfig(rows=64, eval_rows=16, vocab_size=300)
    return traffic_corpus.make_corpus(config).speaker


def test_rows_become_labels_with_nan_where_there_is_none(speaker):
    options = encoding.Options(length=12, prompt_length=11, categories=("a", "b"))
    long = turn(chat.HUMAN, " ".join(traffic.PLAIN["en"].split()))
    whole_row = dataclasses.replace(row({"b": 1.0}), is_whole=True)
    closed, _ = examples.table([whole_row], "labelled", speaker, options)
    np.testing.assert_array_equal(closed["labels"], [[0, 1]])
    given = [row({"b": 1.0}), row({"a": 0.25, "b": 0.0}, long, turn(chat.ASSISTANT, "end"))]
    table, counts = examples.table(given, "labelled", speaker, options, max_truncated_share=0.5)
    np.testing.assert_array_equal(table["labels"], np.float32([[np.nan, 1], [0.25, 0]]))
    np.testing.assert_array_equal(table["weight"], [1, 1])
    whole, _ = chat.encode_chat(speaker, given[1].turns)
    assert len(whole) > 12
    np.testing.assert_array_equal(table["tokens"][1], whole[-12:])  # its end is what is judged
    assert (counts.truncated, counts.kept) == (1, 2)
    with pytest.raises(records.DataError, match="the label 'c' must be a category"):
        examples.table([row({"c": 1.0})], "labelled", speaker, options)


def test_auc_is_the_share_of_pairs_in_order_with_delongs_error():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, 40).astype(float) + 1, rng.integers(0, 5, 30).astype(float)
    found = ranks.auc(x, y)
    by_hand = np.mean((x[:, None] > y) + 0.5 * (x[:, None] == y))
    assert found.value == pytest.approx(by_hand)
    normal = [ranks.auc(rng.normal(1, 1, 60), rng.normal(0, 1, 60)) for _ in range(300)]
    values = np.array([own.value for own in normal])
    assert np.mean([own.se for own in normal]) == pytest.approx(values.std(), rel=0.12)
    with pytest.raises(ValueError, match="both classes"):
        ranks.auc(x, y[:0])


def test_the_best_guard_of_the_world_is_that_of_a_simulation():
    """The likelihood ratio of a category, and recall at a rate, on messages themselves."""
    rates = traffic.Rates(unsafe=0.3)
    own = traffic.messages(3, 8_000, rates)
    listed = {c: {w for n in traffic.PLAIN for w in traffic.planted(n, c, False)} for c in (0, 1)}
    counts = np.array([[sum(w in listed[c] for w in m.text.split()) for c in (0, 1)] for m in own])
    category, unsafe = np.array([m.category for m in own]), np.array([m.is_unsafe for m in own])
    table, rest = traffic.outcomes(rates)
    ratio = (table / np.maximum(table + rest, 1e-300))[counts[:, 0], counts[:, 1]]
    found = ranks.auc(ratio[category == 0], ratio[category != 0])
    assert abs(found.value - traffic.best_auc(rates)) < 3 * found.se + 1e-3
    # Of both categories: what is blocked by falling ratio has that recall at that rate.
    own, safe = table, traffic.outcomes(traffic.Rates(unsafe=0.0))[1]
    by_count = (own + own.T) / 2 / np.maximum(safe, 1e-300)
    both = by_count[counts[:, 0], counts[:, 1]]
    for limit in np.quantile(both[~unsafe], (0.9, 0.98)):
        rate, hit = safe[by_count > limit].sum(), both[unsafe] > limit
        assert np.mean(both[~unsafe] > limit) == pytest.approx(rate, abs=0.01)
        assert traffic.best_recall(rate) == pytest.approx(hit.mean(), abs=0.02)
    half = traffic.messages(4, 4_000, traffic.Rates(unsafe=0.5, novel=0.5))
    novel = np.array([m.novel for m in half if m.is_unsafe])
    assert novel.mean() == pytest.approx(0.5, abs=0.05)
    assert traffic.best_recall(0.05, 0.5) == pytest.approx(traffic.best_recall(0.05) / 2, abs=1e-9)
    assert traffic.best_recall(1.0) == pytest.approx(1)
    # A word of the second list is in no safe message, so a guard that knows it needs no other.
    second = {w for n in traffic.PLAIN for c in (0, 1) for w in traffic.planted(n, c, True)}
    held = np.array([any(w in second for w in m.text.split()) for m in half])
    unsafe = np.array([m.is_unsafe for m in half])
    assert not held[~unsafe].any()
    known = traffic.best_recall(0.0, 0.5, learned=True)
    assert known == pytest.approx(held[unsafe].mean() + traffic.best_recall(0.0) / 2, abs=0.03)
    learned = traffic.best_recall(0.05, 0.5, learned=True)
    assert learned == pytest.approx((traffic.best_recall(0.05) + 1 - 0.6**8) / 2, abs=1e-9)


@pytest.mark.slow
def test_two_steps_agree_on_a_mesh():
    def losses(made):
        with meshes.use(made):
            own, found = guard.guard(MODEL, CONFIG), []
            tx = optim.make_optimizer(tiny.optimizer(learning_rate=1e-3), params(), 10)
            state = jax.jit(
                lambda start: stepping.make_state(own, lambda p: tx, jax.random.key(1), start)
            )({"policy": jax.jit(MODEL.init)(jax.random.key(7))})
            run = update.make_update(own.loss, tx, micro_batches=1)
            for step in range(2):
                state, metrics = run(state, {}, hosts.to_global(batch()), jax.random.key(step))
                found.append(float(metrics["loss"].value))
            return np.array(found)

    plain = losses(None)
    made = meshes.make_mesh(meshes.MeshConfig(data=2, model=2, seq=2), jax.devices())
    np.testing.assert_allclose(losses(made), plain, rtol=1e-5)
    assert plain[0] == pytest.approx(math.log(2), abs=1e-5)
    assert plain[1] < plain[0]
