"""Adapters on meshes: the same numbers, their own layout, and programs for machines not here."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from alignjax.core import struct, trees
from alignjax.models import transformer
from alignjax.models.adapters import adapt, many
from alignjax.parallel import hosts
from alignjax.parallel import mesh as meshes
from alignjax.training import optim, stepping, update
from tests.models.adapters import kinds
from tests.training import tiny


def stepped(name, kind, steps=3):
    """Losses and gradient norms of the first steps on the mesh that is set."""
    plain = transformer.transformer(tiny.shape())
    model = kinds.model_of(kind, plain)
    method = tiny.make(name, model)

    def make(key):
        base, own = plain.init(key), model.init(key)
        scored = struct.replace(
            model.with_scalar(own), scalar=jax.random.normal(jax.random.key(8), (16,))
        )
        return base, {"policy": own, "reward": scored}

    base, start = jax.jit(make)(jax.random.key(7))
    frozen = {"base": base, "reference": adapt.empty(start["policy"]), "reward": start["reward"]}

    def tx_of(params):
        return optim.make_optimizer(tiny.optimizer(), params, 100)

    state = jax.jit(lambda s: stepping.make_state(method, tx_of, jax.random.key(7), s))(start)
    run = update.make_update(method.loss, tx_of(state.params))
    annotate = jax.jit(method.annotate) if method.annotate else lambda frozen, given: {}
    found = []
    for step in range(steps):
        given = hosts.to_global(tiny.batch(name, step, 16))
        given = {**given, **annotate(frozen, given)}
        key = jax.random.key(step)
        given, carry, _ = method.collect(state, frozen, given, key)
        state, metrics = run(struct.replace(state, carry=carry), frozen, given, key)
        found.append([float(metrics["loss"].value), float(metrics["grad_norm"].value)])
    return np.array(found)


@functools.cache
def losses(name, kind, sizes):
    made = None
    if sizes is not None:
        config = meshes.MeshConfig(replica=sizes[0], data=sizes[1], model=sizes[2])
        made = meshes.make_mesh(config, jax.devices())
    with meshes.use(made):
        return stepped(name, kind)


QUICK = {("sft", "lora")}
CASES = [
    pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow)
    for case in [("sft", kind) for kind in kinds.KINDS]
    + [("dpo", "dora"), ("ppo", "lora"), ("sft", "vocabulary")]
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_three_steps_agree_on_a_mesh(name, kind):
    on_mesh, alone = losses(name, kind, (1, 4, 2)), losses(name, kind, None)
    np.testing.assert_allclose(on_mesh, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[] if kind in ("lora", "prefix") else pytest.mark.slow)
        for kind in kinds.KINDS
    ],
)
def test_a_step_keeps_the_layout_of_adapters_and_lowers_for_a_pod(kind):
    pod = AbstractMesh((2, 64, 4), meshes.AXIS_NAMES[:3], axis_types=(AxisType.Explicit,) * 3)
    with jax.sharding.use_abstract_mesh(pod):
        plain = transformer.transformer(tiny.shape(width=256, ff=256, kv_heads=4, head_dim=8))
        model = kinds.model_of(kind, plain)
        method = tiny.make("sft", model)
        tx = None

        def make(key):
            nonlocal tx
            start = {"policy": model.init(key)}
            tx = optim.make_optimizer(optim.OptimConfig(), start["policy"], 10)
            return stepping.make_state(method, lambda p: tx, key, start), {"base": plain.init(key)}

        key = jax.eval_shape(lambda: jax.random.key(0))
        state, frozen = jax.eval_shape(make, key)
        batch = {k: placed(x) for k, x in tiny.batch("sft", 0, 128).items()}
        run = update.make_update(method.loss, tx)
        after, _ = jax.eval_shape(run, state, frozen, batch, key)
        before = trees.named_leaves(state)
        for path, x in trees.named_leaves(after).items():
            assert jax.typeof(x).sharding.spec == jax.typeof(before[path]).sharding.spec, path
        specs = [jax.typeof(x).sharding.spec for x in jax.tree.leaves(state.params)]
        assert any(entry is not None for spec in specs for entry in spec)
        run.trace(state, frozen, batch, key).lower(lowering_platforms=("tpu", "cuda"))


def placed(x):
    from tests.algorithms import test_meshes

    return test_meshes.on_mesh(x)


def test_rows_choose_their_adapters_on_a_mesh():
    plain = transformer.transformer(tiny.shape())
    model = kinds.model_of("lora", plain)
    ids = np.arange(16, dtype=np.int32) % 3
    batch = {**tiny.batch("dpo", 0, 16), "adapter": ids}
    batch["reference_logprobs"] = np.zeros(batch["tokens"].shape, np.float32)
    config = meshes.MeshConfig(replica=1, data=4, model=2)
    found = []
    for made in (None, meshes.make_mesh(config, jax.devices())):
        with meshes.use(made):
            method = tiny.make("dpo", model)
            base = jax.jit(plain.init)(jax.random.key(0))
            own = [kinds.roughen(jax.jit(model.init)(jax.random.key(n)), n) for n in range(3)]
            run = jax.jit(update.make_gradients(many.by_row(method.loss)))
            given = hosts.to_global(batch)
            grads, _ = run(many.stack(own), {"base": base}, given, jax.random.key(0))
            found.append(jax.tree.map(np.asarray, grads))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *found)
