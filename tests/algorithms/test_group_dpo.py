"""Group-robust DPO: one group is DPO, weights follow losses and not which groups a batch holds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alignjax.algorithms import dpo, group_dpo
from alignjax.core import struct
from alignjax.models import transformer
from alignjax.parallel import hosts
from alignjax.parallel import mesh as meshes
from alignjax.training import optim, stepping, update
from tests.training import tiny

MODEL = transformer.transformer(tiny.shape())
POLICY = jax.jit(MODEL.init)(jax.random.key(7))
ANNOTATE = jax.jit(group_dpo.group_dpo(MODEL, group_dpo.GroupDpoConfig(beta=0.5)).annotate)
ROWS = 8


def start(method, tx, policy):
    make = jax.jit(lambda p: stepping.make_state(method, lambda _: tx, jax.random.key(0), p))
    return make({"policy": policy})


def steps(config, count, groups=None, make=group_dpo.group_dpo, micro_batches=1):
    """(state, losses) after some updates of the same batches; groups [ROWS] by step."""
    method, frozen = make(MODEL, config), {"reference": POLICY}
    tx = optim.make_optimizer(tiny.optimizer(), POLICY, 100)
    state = start(method, tx, POLICY)
    run = update.make_update(method.loss, tx, micro_batches=micro_batches)
    found = []
    for step in range(count):
        batch = {n: jnp.asarray(x) for n, x in tiny.rows(step, ROWS, 2).items()}
        if groups is not None:
            batch["group"] = jnp.asarray(groups(step), jnp.int32)
        batch |= ANNOTATE(frozen, batch)
        batch, carry, told = method.collect(state, frozen, batch, jax.random.key(step))
        state, metrics = run(
            struct.replace(state, carry=carry), frozen, batch, jax.random.key(step)
        )
        found.append({**{n: float(m.value) for n, m in metrics.items()}, **told})
    return state, found


def config(**changes):
    return group_dpo.GroupDpoConfig(beta=0.5, **changes)


def test_one_group_is_dpo_bit_for_bit():
    plain, before = steps(dpo.DpoConfig(beta=0.5), 3, make=dpo.dpo)
    robust, after = steps(config(groups=1), 3, lambda step: np.zeros(ROWS))
    for one, other in zip(
        jax.tree.leaves(plain.params), jax.tree.leaves(robust.params), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert [x["loss"] for x in before] == [x["loss"] for x in after]


def collected(place):
    """(batch, carry) of a first batch, laid out by `place` on the mesh that is set."""
    method = group_dpo.group_dpo(MODEL, config(step_size=1.0))
    batch = tiny.rows(0, ROWS, 2) | {"group": np.arange(ROWS, dtype=np.int32) % 2}
    batch |= {"reference_logprobs": np.zeros((ROWS, 2, tiny.LENGTH), np.float32)}
    tx = optim.make_optimizer(tiny.optimizer(), POLICY, 100)
    state = start(method, tx, jax.tree.map(np.asarray, POLICY))
    return method.collect(state, {}, place(batch), jax.random.key(0))[:2]


def test_a_mesh_weighs_groups_as_one_device_does():
    plain = collected(lambda batch: batch)
    mesh = meshes.make_mesh(meshes.MeshConfig(data=4, model=2), jax.devices())
    with meshes.use(mesh):
        found = collected(hosts.to_global)
    np.testing.assert_allclose(found[0]["weight"], plain[0]["weight"], rtol=2e-5)
    for name in ("q", "loss"):
        np.testing.assert_allclose(found[1][name], plain[1][name], rtol=2e-5)


def test_an_absent_group_keeps_its_weight_and_its_loss():
    robust, told = steps(
        config(groups=3, step_size=1.0),
        4,
        lambda step: np.arange(ROWS) % 3 if step < 2 else np.arange(ROWS) % 2,
    )
    for number in range(3):
        assert float(robust.carry["seen"][number]) == (2 if number == 2 else 4)
    weights = [float(x["group 2 weight"].value) for x in told]
    assert weights[1] == weights[2] == weights[3]
    assert float(told[1]["group 2 loss"].value) == float(told[3]["group 2 loss"].value)
    moving = [float(x["group 0 weight"].value) for x in told]
    assert len(set(moving)) == 4
    np.testing.assert_allclose(robust.carry["q"].sum(), 1, rtol=1e-6)


def test_the_objective_is_the_weighted_mean_of_groups():
    """Of groups of 6 and 2 rows: each counts by its q, not by its rows."""
    method = group_dpo.group_dpo(MODEL, config(groups=2, step_size=2.0, decay=0.0))
    other = jax.tree.map(
        lambda x: x + 0.1 * np.sin(np.arange(x.size).reshape(x.shape)).astype(x.dtype), POLICY
    )
    batch = {n: jnp.asarray(x) for n, x in tiny.rows(3, ROWS, 2).items()}
    groups = np.array([0] * 6 + [1] * 2)
    batch["group"] = jnp.asarray(groups, jnp.int32)
    frozen = {"reference": POLICY}
    batch |= ANNOTATE(frozen, batch)
    state = start(method, optax.sgd(0.1), other)
    batch, carry, _ = method.collect(state, frozen, batch, jax.random.key(0))
    own = jax.jit(dpo.dpo(MODEL, dpo.DpoConfig(beta=0.5)).loss)
    by_group = []
    for g in (0, 1):
        part = {n: x[groups == g] for n, x in batch.items() if n not in ("weight", "group")}
        terms, _ = own(other, frozen, part, jax.random.key(0))
        by_group.append(float(terms["dpo"].value))
    np.testing.assert_allclose(carry["loss"], by_group, rtol=1e-5)
    want = 0.5 * np.exp(2.0 * np.array(by_group))
    want /= want.sum()
    np.testing.assert_allclose(carry["q"], want, rtol=1e-5)
    terms, _ = jax.jit(method.loss)(other, frozen, batch, jax.random.key(0))
    assert float(terms["dpo"].value) == pytest.approx(float(want @ by_group), rel=1e-5)
    assert abs(by_group[0] - by_group[1]) > 1e-3


@pytest.mark.slow
def test_micro_batches_change_nothing():
    def groups(step):
        return np.array([0, 0, 0, 0, 0, 0, 1, 1])

    one, _ = steps(config(), 2, groups)
    four, _ = steps(config(), 2, groups, micro_batches=4)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(four.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": 0}, "algorithm.groups must be"),
        ({"step_size": 0.0}, "algorithm.step_size must be"),
        ({"decay": 1.0}, "algorithm.decay must be"),
        ({"method": "aot"}, "must not sort a batch"),
    ],
)
def test_bad_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config(), **changes).validate()


def test_the_column_of_groups_is_asked_for_before_a_step():
    assert group_dpo.group_dpo(MODEL, config()).columns == ("group",)


def test_tables_without_groups_are_refused():
    rows = {"tokens": np.zeros((3, 2, 4), np.int32)}
    with pytest.raises(ValueError, match=r"must have the column group .* got the columns tokens"):
        group_dpo.check_groups(rows, 2)
    with pytest.raises(ValueError, match=r"numbers from 0 to 1 .* got 0 to 2"):
        group_dpo.check_groups({**rows, "group": np.array([0, 2, 1])}, 2)
    assert group_dpo.check_groups({**rows, "group": np.array([0, 1, 1])}, 2) == {}
