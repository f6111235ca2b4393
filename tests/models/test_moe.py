"""Experts: against a loop over tokens, on every mesh, and their losses once for each real token."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.algorithms import dpo, ppo, pretrain, reward, sft
from alignjax.core import struct
from alignjax.models import moe, params, transformer
from alignjax.models.config import MoeConfig
from alignjax.parallel import axes, hosts, mesh
from alignjax.training import optim, update
from tests.models import tiny
from tests.reference import experts as reference

MIXTRAL = {"experts": 4, "active": 2, "ff": 8}
KINDS = {
    "softmax over the chosen": MIXTRAL,
    "softmax over all": {"experts": 6, "active": 3, "ff": 4, "normalise": False},
    "one expert": {"experts": 1, "active": 1, "ff": 8},
    "groups and correction": {
        "experts": 8,
        "active": 3,
        "ff": 8,
        "shared_ff": 8,
        "scores": "sigmoid",
        "scale": 2.5,
        "bias_correction": True,
        "groups": 4,
        "active_groups": 2,
    },
    "groups without correction": {"experts": 8, "active": 2, "ff": 8, "groups": 4}
    | {"active_groups": 3, "scores": "sigmoid"},
    "weighed inputs": {
        "experts": 4,
        "active": 1,
        "ff": 8,
        "shared_ff": 4,
        "scores": "sigmoid",
        "normalise": False,
        "weigh_inputs": True,
    },
    "biases and clamps": {"experts": 5, "active": 2, "ff": 8, "bias": True, "clamp": 0.3}
    | {"clamp_gain": 1.1},
}


def config(**changes):
    moe_fields = {f.name for f in dataclasses.fields(MoeConfig)}
    inner = {name: x for name, x in changes.items() if name in moe_fields}
    outer = {name: x for name, x in changes.items() if name not in moe_fields}
    return tiny.config(moe=MoeConfig(**{**MIXTRAL, **inner}), **outer)


def weights_of(shape, seed=0):
    """One layer's host weights, rough enough for scores to differ."""
    made = params.init(moe.declare(shape, 1), jax.random.key(seed), jnp.float32)
    rng = np.random.default_rng(seed)
    made = jax.tree.map(lambda x: 2.0 * np.asarray(x[0]), made)
    for name in ("correction", "router_bias", "gate_bias", "up_bias", "down_bias"):
        started = getattr(made, name)  # as 0
        if started is not None:
            made = struct.replace(made, **{name: rng.normal(size=started.shape) * 0.5})
    return jax.tree.map(lambda x: np.asarray(x, np.float32), made)


def wide(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def states(rows=2, time=7, seed=3):
    return np.random.default_rng(seed).normal(size=(rows, time, 16)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_a_loop_over_tokens(kind):
    shape, x = config(**KINDS[kind]), states()
    weights = weights_of(shape)
    out, routing = jax.jit(lambda w, x: moe.mixture(shape, w, x))(weights, x)
    for row, found, chosen in zip(wide(x), out, routing.chosen, strict=True):
        want = reference.mixture(wide(weights), row, shape.moe)
        assert np.abs(want).max() > 0.1
        np.testing.assert_allclose(found, want, atol=1e-5)
        for token, ids in zip(row, chosen, strict=True):
            logits = reference.logits(wide(weights), token)
            pairs = reference.route(logits, shape.moe, wide(weights.correction))
            assert sorted(ids.tolist()) == sorted(e for e, _ in pairs)


def test_all_tokens_may_choose_one_expert():
    # No capacity: nothing is dropped when the others have nothing to do.
    shape, x = config(active=1), np.abs(states())
    weights = weights_of(shape)
    router = np.full_like(weights.router, -1.0)
    router[:, 2] = 1.0
    weights = struct.replace(weights, router=router)
    out, routing = moe.mixture(shape, weights, x)
    np.testing.assert_array_equal(routing.chosen, 2)
    want = reference.mixture(wide(weights), wide(x[0]), shape.moe)
    np.testing.assert_allclose(out[0], want, atol=1e-5)


def test_the_correction_chooses_and_does_not_weigh():
    shape = config(**{**KINDS["groups and correction"], "groups": 1, "active_groups": 1})
    logits = jnp.zeros((1, 8))
    correction = jnp.arange(8.0)
    share, chosen = moe.choose(shape.moe, logits, correction)
    assert sorted(chosen[0].tolist()) == [5, 6, 7]
    np.testing.assert_allclose(share, 2.5 / 3, rtol=1e-6)
    slopes = jax.grad(lambda c: moe.choose(shape.moe, logits + 0.1, c)[0].sum())(correction)
    np.testing.assert_array_equal(slopes, 0)


def test_groups_are_chosen_by_their_two_best():
    # Group 0 has the best expert and one bad one, group 1 two good ones.
    shape = config(experts=4, active=1, groups=2, scores="sigmoid", normalise=False)
    logits = jnp.array([[3.0, -9.0, 2.0, 1.9]])
    share, chosen = moe.choose(shape.moe, logits, None)
    assert chosen.tolist() == [[2]]
    np.testing.assert_allclose(share, jax.nn.sigmoid(2.0), rtol=1e-6)


@pytest.fixture(params=[None, {"data": 8}, {"expert": 4}, {"expert": 2, "model": 2}, {"expert": 8}])
def expert_mesh(request):
    """No mesh, experts on every device, and experts spread over 2, 4 and 8 of them."""
    made = mesh.make_mesh(mesh.MeshConfig(**request.param)) if request.param else None
    with mesh.use(made):
        yield made


def _value(shape):
    def value(weights, x):
        out, routing = moe.mixture(shape, weights, x)
        segments = axes.shard(jnp.ones(x.shape[:2], jnp.int32), "batch time")
        fined = moe.penalties(shape.moe, routing, segments)
        return jnp.sum(jnp.sin(out)) + jnp.mean(fined.balance + 0.1 * fined.z), out

    return jax.jit(jax.value_and_grad(value, argnums=(0, 1), has_aux=True))


SPREAD = ["groups and correction", "weighed inputs", "biases and clamps"]


@pytest.fixture(scope="module")
def one_device():
    """Values and gradients of both kinds without a mesh."""
    found = {}
    for kind in SPREAD:
        shape = config(**{**KINDS[kind], "experts": 8})
        weights = jax.tree.map(jnp.asarray, weights_of(shape))
        found[kind] = jax.tree.map(np.asarray, _value(shape)(weights, states(rows=8)))
    return found


@jax.custom_vjp
def _careless(rows, weight, sizes):
    """A product whose kernel leaves NaN in all rows behind the runs, and in their gradient."""
    inside = (jnp.arange(len(rows)) < jnp.sum(sizes))[:, None]
    return jnp.where(inside, jax.lax.ragged_dot(jnp.where(inside, rows, 0), weight, sizes), jnp.nan)


def _careless_backward(kept, g):
    rows, weight, sizes = kept
    inside = (jnp.arange(len(rows)) < jnp.sum(sizes))[:, None]
    product = functools.partial(jax.lax.ragged_dot, group_sizes=sizes)
    slopes = jax.vjp(product, jnp.where(inside, rows, 0), weight)[1](jnp.where(inside, g, 0))
    return jnp.where(inside, slopes[0], jnp.nan), slopes[1], None


_careless.defvjp(lambda *given: (_careless(*given), given), _careless_backward)


@pytest.mark.parametrize("kind", SPREAD)
def test_what_kernels_leave_behind_the_runs_reaches_nothing(kind, one_device, monkeypatch):
    monkeypatch.setattr(moe, "_matmul", _careless)
    with mesh.use(mesh.make_mesh(mesh.MeshConfig(expert=4))):
        _check_value_and_gradient(kind, one_device[kind])


@pytest.mark.parametrize("kind", SPREAD)
def test_every_mesh_gives_the_value_and_gradient_of_one_device(kind, expert_mesh, one_device):
    found, weights = _check_value_and_gradient(kind, one_device[kind])
    if expert_mesh is not None:
        gate = weights.gate.addressable_shards[0].data
        assert gate.shape[0] == 8 // expert_mesh.shape.get("expert", 1)
        assert found[1][0].gate.sharding == weights.gate.sharding


def _check_value_and_gradient(kind, want):
    """(value and gradient on the mesh that is set, weights), after comparing them."""
    shape, x = config(**{**KINDS[kind], "experts": 8}), states(rows=8)
    host = weights_of(shape)

    def place(info, leaf):
        names = info.axes.split(" ", 1)[1]
        return jax.device_put(leaf, axes.spec(names) if axes.has_mesh() else None)

    declared = moe.declare(shape, 1)
    weights = jax.tree.map(place, declared, host, is_leaf=params.is_info)
    found = _value(shape)(weights, hosts.to_global({"x": x})["x"])
    largest = max(float(np.abs(g).max()) for g in jax.tree.leaves(want[1]))
    np.testing.assert_allclose(found[0][0], want[0][0], rtol=1e-5)
    np.testing.assert_allclose(found[0][1], want[0][1], atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * max(largest, 1)),
        found[1],
        want[1],
    )
    return found, weights


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_router_losses_equal_the_loop(scores):
    shape, x = config(scores=scores), states()
    weights = weights_of(shape)
    _, routing = moe.mixture(shape, weights, x)
    fined = moe.penalties(shape.moe, routing, jnp.ones((2, 7), jnp.int32))
    for row, balance, z in zip(wide(x), fined.balance, fined.z, strict=True):
        logits = row @ wide(weights.router)
        np.testing.assert_allclose(balance.mean(), reference.balance(logits, shape.moe), rtol=1e-5)
        np.testing.assert_allclose(z.mean(), reference.z(logits), rtol=1e-5)


def test_balanced_experts_have_the_smallest_loss():
    even = moe.Routing(jnp.zeros((1, 4, 4)), jnp.array([[[0, 1], [2, 3], [0, 1], [2, 3]]]))
    fond = jnp.tile(jnp.array([9.0, 9, 0, 0]), (1, 4, 1)), jnp.tile(jnp.array([0, 1]), (1, 4, 1))
    same = moe.Routing(*fond)
    shape, segments = config(), jnp.ones((1, 4), jnp.int32)
    np.testing.assert_allclose(
        moe.penalties(shape.moe, even, segments).balance.mean(), 2, rtol=1e-6
    )
    assert float(moe.penalties(shape.moe, same, segments).balance.mean()) > 3.9


ROUTED = config(balance_loss=0.3, z_loss=0.02, layers=3, first=1, vocab_size=16)


def _weights(scale=2.0):
    made = transformer.transformer(ROUTED).init(jax.random.key(0))
    return jax.tree.map(lambda x: scale * x, made)


def test_router_losses_reach_the_objective_once_for_each_real_token():
    # Padded or packed, and from 1 or 2 micro-batches: the same terms and the same gradient.
    # Weights of their usual size: what is compared is a sum in another order, so rounding counts.
    model, weights = transformer.transformer(ROUTED), _weights(scale=1.0)
    sequences = tiny.sequences([7, 3, 5, 6])
    quiet = transformer.transformer(config(layers=3, first=1))
    rows = tiny.batch(*tiny.rows(sequences, 9, pad=3))
    one = tiny.batch(*tiny.packed(sequences, 25, pad=5))
    method = sft.sft(model, sft.SftConfig())
    key = jax.random.key(0)
    terms, metrics = jax.jit(method.loss)(weights, {}, rows, key)
    assert set(terms) == {"loss", "router_balance", "router_z"} <= set(metrics) | {"loss"}
    assert float(terms["router_z"].weight) == 21  # tokens, not slots
    assert float(terms["router_balance"].total) / 21 > 0.3 * 2 * 0.99
    alone, _ = sft.sft(quiet, sft.SftConfig()).loss(weights, {}, rows, key)
    np.testing.assert_allclose(alone["loss"].total, terms["loss"].total, rtol=1e-6)
    assert set(alone) == {"loss"}
    gradients = {
        name: jax.jit(update.make_gradients(method.loss, micro_batches=n))(weights, {}, batch, key)
        for name, batch, n in (("rows", rows, 1), ("packed", one, 1), ("micro", rows, 2))
    }
    for name in ("packed", "micro"):
        for term in ("router_balance", "router_z"):
            a, b = gradients[name][1][term], gradients["rows"][1][term]
            np.testing.assert_allclose(a.total, b.total, rtol=1e-5)
            np.testing.assert_allclose(a.weight, b.weight)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(
                a, b, atol=1e-6 * max(1.0, float(np.max(np.abs(b))))
            ),
            gradients[name][0],
            gradients["rows"][0],
        )
    assert float(np.abs(gradients["rows"][0].blocks[1].mlp.router).max()) > 1e-3


def test_the_router_losses_weight_is_that_of_the_whole():
    # Half the coefficient, half the term; each loss is the mean over layers.
    weights, rows = _weights(), tiny.batch(*tiny.rows(tiny.sequences([4, 2]), 5))
    half = dataclasses.replace(ROUTED, moe=dataclasses.replace(ROUTED.moe, balance_loss=0.15))
    found = []
    for shape in (ROUTED, half):
        method = pretrain.pretrain(transformer.transformer(shape), pretrain.PretrainConfig())
        found.append(method.loss(weights, {}, rows, jax.random.key(0))[0])
    full, halved = (float(terms["router_balance"].total) for terms in found)
    np.testing.assert_allclose(halved, full / 2, rtol=1e-6)
    single = dataclasses.replace(ROUTED.moe, first=2)  # one layer's loss has the same size
    model = transformer.transformer(dataclasses.replace(ROUTED, moe=single))
    terms, _ = pretrain.pretrain(model, pretrain.PretrainConfig()).loss(
        jax.tree.map(lambda x: 2.0 * x, model.init(jax.random.key(0))), {}, rows, jax.random.key(0)
    )
    assert 0.5 < float(terms["router_balance"].total) / full < 2


def _pairs():
    """One preference with its reference's log-probabilities, and rows of collected samples."""
    tokens, positions, segments = tiny.rows(tiny.sequences([5, 4, 6, 3]), 6)
    mask = (segments > 0) & (positions > 1)
    rows = {"tokens": tokens, "positions": positions, "segments": segments, "loss_mask": mask}
    pairs = {name: x.reshape(2, 2, 6) for name, x in rows.items()}
    noise = np.random.default_rng(0).normal(size=(4, 4, 6)).astype(np.float32)
    names = ("old_logprobs", "advantages", "old_values", "returns")
    collected = {**rows, **dict(zip(names, noise, strict=True))}
    return {**pairs, "reference_logprobs": noise[0].reshape(2, 2, 6)}, collected


@pytest.mark.parametrize("method", ["reward", "dpo", "ppo", "ppo with its own critic"])
def test_every_method_adds_the_router_losses_of_its_rows(method):
    model, weights = transformer.transformer(ROUTED), _weights()
    pairs, collected = _pairs()
    params, batch, copies = model.with_scalar(weights), pairs, [""]
    if method == "reward":
        made = reward.reward(model, reward.RewardConfig())
    elif method == "dpo":
        made, params = dpo.dpo(model, dpo.DpoConfig()), weights
    else:
        shared = method == "ppo"
        numbers, nothing = ppo.PpoConfig(shared_critic=shared), {"eos": 1, "pad": 0}
        made, batch = ppo.ppo(model, numbers, reward=lambda *_: 0.0, **nothing), collected
        if not shared:
            params, copies = {"policy": weights, "value": params}, ["", "value_"]
    terms, _ = jax.jit(made.loss)(params, {}, batch, jax.random.key(0))
    rows = tiny.batch(*(collected[name] for name in ("tokens", "positions", "segments")))
    want, _ = sft.sft(model, sft.SftConfig()).loss(weights, {}, rows, jax.random.key(0))
    for name in ("router_balance", "router_z"):
        for copy in copies:
            np.testing.assert_allclose(terms[copy + name].total, want[name].total, rtol=1e-5)
            assert float(terms[copy + name].weight) == 18
    assert len([name for name in terms if "router" in name]) == 2 * len(copies)


def test_weight_decay_leaves_the_correction_alone():
    made = optim.OptimConfig()
    assert re.search(made.no_decay, "blocks/0/mlp/correction")
    assert not re.search(made.no_decay, "blocks/0/mlp/router")


def test_cached_decoding_and_packing_equal_the_full_forward():
    model, weights = transformer.transformer(ROUTED), _weights()
    sequences = tiny.sequences([6, 4])
    rows = tiny.rows(sequences, 6)

    @jax.jit
    def run(tokens, positions, segments, cache=None):
        return model.hidden(weights, tokens, positions=positions, segments=segments, cache=cache)

    full, _ = run(*rows)
    joined, _ = run(*tiny.packed(sequences, 12))
    np.testing.assert_allclose(joined[0, :6], full[0], atol=2e-5)
    np.testing.assert_allclose(joined[0, 6:10], full[1, :4], atol=2e-5)
    cache, parts = model.cache(2, 6), []
    for at in (slice(0, 3), slice(3, 4), slice(4, 5), slice(5, 6)):
        part, cache = run(*(x[:, at] for x in rows), cache)
        parts.append(part)
    decoded = np.concatenate(parts, axis=1)
    np.testing.assert_allclose(decoded[0], full[0], atol=2e-5)
    np.testing.assert_allclose(decoded[1, :4], full[1, :4], atol=2e-5)


def test_half_precision_keeps_the_router_in_fp32():
    shape = dataclasses.replace(ROUTED, compute_dtype="bfloat16")
    weights = moe.declare(shape, 1)
    made = params.init(weights, jax.random.key(0), jnp.float32)
    used = moe.cast(made, jnp.bfloat16)
    assert (used.router.dtype, used.gate.dtype) == (jnp.float32, jnp.bfloat16)
    model, rows = transformer.transformer(shape), tiny.rows(tiny.sequences([5]), 5)
    names = dict(zip(("positions", "segments"), rows[1:], strict=True))
    states, fined = model.hidden_and_penalties(_weights(), rows[0], **names)
    assert states.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(fined)} == {np.dtype(np.float32)}


def test_layers_with_experts_are_chosen_by_number():
    runs = config(layers=6, first=1, every=2, dense=(3,)).stacks()
    assert [(sparse, list(r)) for sparse, r in runs] == [
        (False, [0]),
        (True, [1]),
        (False, [2, 3, 4]),
        (True, [5]),
    ]
    declared = transformer.declare(config(layers=3, first=1, shared_ff=4))
    assert [type(b.mlp).__name__ for b in declared.blocks] == ["Mlp", "Moe"]
    assert declared.blocks[1].mlp.gate.shape == (2, 4, 16, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"active": 5}, "model.moe.active must .*<= 4; got 5"),
        ({"ff": 0}, "model.moe.ff must"),
        ({"groups": 3}, "model.moe.groups must divide experts"),
        ({"groups": 2, "active_groups": 3}, "model.moe.groups must .* be at least active_groups"),
        ({"groups": 4, "active": 2}, "model.moe.active must be at most .*; got 2 of 1"),
        ({"scores": "relu"}, "model.moe.scores must be one of softmax, sigmoid"),
        ({"every": 0}, "model.moe.every must"),
        ({"balance_loss": -1.0}, "model.moe.balance_loss must"),
        ({"clamp": -1.0}, "model.moe.clamp must"),
        ({"clamp_gain": 0.0}, "model.moe.clamp_gain must"),
        ({"bias": True, "weigh_inputs": True}, "model.moe.bias must be false where"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_bad_experts_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        transformer.transformer(config(**changes))


def test_experts_that_the_mesh_does_not_divide_are_refused():
    with (
        mesh.use(mesh.make_mesh(mesh.MeshConfig(expert=8))),
        pytest.raises(ValueError, match=r"model.moe.experts must be a multiple .*expert.* 4 and 8"),
    ):
        transformer.transformer(config())
