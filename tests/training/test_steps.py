"""The loop that one can call: the run's own loop, any optax chain, every kind of algorithm."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax import training
from alignjax.algorithms import unpaired
from alignjax.core import errors, mean
from alignjax.data import pipeline
from alignjax.models import transformer
from alignjax.training import algorithm, loop, optim
from tests.training import tiny

MODEL = transformer.transformer(tiny.shape())
STEPS, ROWS = 3, 8


# --- the run's loop -----------------------------------------------------------------------------


def unpaired_table(rows):
    """Single answers of both kinds."""
    return {**tiny.rows(0, rows), "desirable": np.random.default_rng(1).random(rows) < 0.6}


def prepared(name):
    """(algorithm, trees to start from, frozen trees, table) on rows of two and a half batches."""
    rows = 20
    if name in ("kto", "bco"):
        method = unpaired.unpaired(MODEL, unpaired.UnpairedConfig(method=name, udm=UDM[name]))
        _, _, frozen, _ = tiny.ready("sft", MODEL)
        table = unpaired_table(rows)
    else:
        changes = {"epochs": 2, "minibatches": 2, "target_kl": 0.1} if name == "ppo" else {}
        method, _, frozen, _ = tiny.ready(name, MODEL, **changes)
        table = tiny.batch(name, 0, rows)
    table = training.annotated(method, frozen, table, ROWS)
    return method, {"policy": frozen["reference"], "value": frozen["reward"]}, frozen, table


UDM = {"kto": None, "bco": True}


def in_memory(method, start, frozen, table, tx):
    """(final state, metrics of each step) without a folder."""
    batches = pipeline.Batches(table, batch_size=ROWS, seed=5)
    begin, rows = training.initial_state(method, tx, seed=3, start=start), []
    run = training.steps(
        method, batches.batch, tx, state=begin, frozen=frozen, until=STEPS, seed=3
    )  # fmt: skip
    for state, metrics in run:
        rows.append(mean.floats(metrics))
        assert int(state.step) == len(rows)
    return state, rows


@pytest.mark.parametrize(
    "name",
    ["dpo", *(pytest.param(n, marks=pytest.mark.slow) for n in ("sft", "ppo", "kto", "bco"))],
)
def test_a_run_in_a_folder_is_the_same_bit_for_bit(tmp_path, name):
    method, start, frozen, table = prepared(name)
    optimizer = optim.OptimConfig(learning_rate=0.01, warmup_steps=2, weight_decay=0.1)
    each = method.plan.epochs * method.plan.minibatches
    batches = pipeline.Batches(table, batch_size=ROWS, seed=5)
    whole = loop.train(
        method,
        batch_at=batches.batch,
        start=dict(start),
        frozen=frozen,
        optimizer=optimizer,
        config=loop.LoopConfig(steps=STEPS, batch_size=ROWS),
        seed=3,
        workdir=tmp_path,
        meta={},
        name=name,
        log=print,
    )
    abstract = jax.eval_shape(lambda: method.init(jax.random.key(0), start))
    tx = optim.make_optimizer(optimizer, abstract, STEPS * each)
    state, rows = in_memory(method, start, frozen, table, tx)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(whole))
    logged = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for row in logged:
        assert row.pop("step") in range(STEPS)
        assert row.pop("learning_rate") > 0
    assert logged == rows
    assert int(state.step) == STEPS


# --- any optax chain ----------------------------------------------------------------------------


def squares():
    """Least squares of two weights on x [B, 3] -> y [B]."""

    def loss(params, frozen, batch, key):
        error = batch["x"] @ params["w"] + params["bias"] - batch["y"]
        terms = {"square": mean.of(error**2)}
        return terms, terms

    def init(key, start):
        return {"w": jnp.array([0.5, -1.0, 2.0]), "bias": jnp.float32(0.25)}

    return algorithm.Algorithm(init=init, loss=loss)


def host_batches(count):
    rng = np.random.default_rng(0)
    return [
        {"x": rng.normal(size=(6, 3)).astype(np.float32), "y": rng.normal(size=6).astype("f4")}
        for _ in range(count)
    ]


CHAINS = {
    "sgd": lambda: optax.sgd(0.1, momentum=0.9),
    "lion": lambda: optax.lion(0.01, weight_decay=0.3, mask={"w": True, "bias": False}),
    "clipped adam": lambda: optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.05)),
    "schedule": lambda: optax.adamw(optax.linear_schedule(0.1, 0.0, 4)),
}


@pytest.mark.parametrize("micro_batches", [1, 3])
@pytest.mark.parametrize("chain", CHAINS)
def test_any_optax_chain_drives_it(chain, micro_batches):
    tx, batches, method = CHAINS[chain](), host_batches(4), squares()
    params = method.init(None, {})
    own = tx.init(params)
    for batch in batches:
        error = batch["x"] @ params["w"] + params["bias"] - batch["y"]
        gradient = {"w": 2 * batch["x"].T @ error / 6, "bias": 2 * jnp.mean(error)}
        changes, own = tx.update(gradient, own, params)
        params = optax.apply_updates(params, changes)
    begin = training.initial_state(method, tx)
    run = training.steps(method, batches, tx, state=begin, micro_batches=micro_batches)
    for state, metrics in run:
        assert (int(state.step) > 0, float(metrics["skipped"].value)) == (True, 0)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state.params, params
    )


def test_it_goes_on_from_a_state_and_ends_with_the_batches():
    method, tx, batches = squares(), optax.adam(1e-2), host_batches(4)

    def run(state, source, **options):
        loop_of = training.steps(method, source, tx, state=state, seed=3, **options)
        rows = [(jax.device_get(state), mean.floats(metrics)) for state, metrics in loop_of]
        return [state for state, _ in rows], [row for _, row in rows]

    whole, rows = run(training.initial_state(method, tx), batches)
    assert [int(state.step) for state in whole] == [1, 2, 3, 4]
    for source in (batches[2:], lambda step: batches[step]):
        first = jax.tree.map(jnp.asarray, whole[1])
        after, more = run(first, source, until=4)
        assert more == rows[2:]
        jax.tree.map(np.testing.assert_array_equal, after[-1], whole[-1])
        assert run(jax.tree.map(jnp.asarray, whole[1]), source, until=2) == ([], [])


# --- bad input ----------------------------------------------------------------------------------


def refused(message, *arguments, error=ValueError, **options):
    """The whole loop is refused, in one line."""
    with pytest.raises(error, match=message) as caught:
        list(training.steps(*arguments, **options))
    assert "\n" not in str(caught.value)


def test_bad_input_is_one_line():
    method, tx, batches = squares(), optax.adam(0.1), host_batches(1)
    options = {"state": training.initial_state(method, tx)}
    for count in (0, -1, float("nan")):
        refused("micro_batches must be", method, batches, tx, micro_batches=count, **options)
    refused("got 4 for 6 rows", method, batches, tx, micro_batches=4, **options)
    coupled = method._replace(coupled=True)
    refused(
        "must be 1 for a loss that is coupled", coupled, batches, tx, micro_batches=2, **options
    )
    parts = method._replace(plan=algorithm.Plan(minibatches=4))
    refused(
        "minibatches must divide the rows of a batch; got 4 for 6", parts, batches, tx, **options
    )
    refused("tx must be the transformation that", method, batches, optax.sgd(0.1), **options)
    config = optim.OptimConfig()
    refused(
        "tx must be an optax transformation; got OptimConfig", method, batches, config, **options
    )
    without = [{"x": batches[0]["x"]}]
    refused(
        "must hold y, which the algorithm reads; got columns x and", method, without, tx, **options
    )
    unknown = method._replace(first=lambda batch: {"cube": algorithm.Expected(1e6, 1.0)})
    refused("first must name metrics of the loss; got 'cube'", unknown, batches, tx, **options)
    options = {"state": training.initial_state(method, tx)}
    missed = method._replace(first=lambda batch: {"square": algorithm.Expected(1e6, 1.0)})
    refused("must find square = 1e", missed, batches, tx, error=errors.Failure, **options)


def test_it_refuses_before_a_step_is_asked_for():
    method, tx = squares(), optax.adam(0.1)
    state = training.initial_state(method, tx)
    with pytest.raises(ValueError, match="micro_batches must be"):
        training.steps(method, [], tx, state=state, micro_batches=0)


@pytest.mark.parametrize(
    ("name", "missing", "message"),
    [
        ("dpo", "columns", "must hold reference_logprobs, which the algorithm reads; got columns"),
        ("ppo", "reference", "must hold reference, which the algorithm reads"),
    ],
)
def test_what_an_algorithm_misses_is_named(name, missing, message):
    method, start, frozen, table = prepared(name)
    tx = optax.adam(1e-2)
    state = training.initial_state(method, tx, start=start)
    if missing == "columns":
        table = tiny.batch(name, 0, ROWS)
    else:
        frozen = {name: tree for name, tree in frozen.items() if name != missing}
    batch = {name: x[:ROWS] for name, x in table.items()}
    refused(message, method, [batch], tx, state=state, frozen=frozen)
