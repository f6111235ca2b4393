"""Every method gives the same numbers on every mesh, and lowers for machines that are not here."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from alignjax.core import trees
from alignjax.models import transformer
from alignjax.models.config import MoeConfig
from alignjax.parallel import axes
from alignjax.parallel import mesh as meshes
from alignjax.training import optim, stepping, update
from tests.training import tiny

MESHES = {
    "none": None,
    "data8": {"data": 8},
    "data4-model2": {"data": 4, "model": 2},
    "data2-model2-seq2": {"data": 2, "model": 2, "seq": 2},
    "data2-expert4": {"data": 2, "expert": 4},
    "data2-model2-expert2": {"data": 2, "model": 2, "expert": 2},
}
EXPERTS = {"moe": MoeConfig(experts=4, active=2, ff=16, shared_ff=8, balance_loss=0.01)}


@functools.lru_cache
def losses(name, sizes, experts=False):
    """Loss and gradient norm of three steps."""
    made = None
    if MESHES[sizes] is not None:
        made = meshes.make_mesh(meshes.MeshConfig(**MESHES[sizes]), jax.devices())
    with meshes.use(made):
        return np.array(tiny.first_losses(name, model=EXPERTS if experts else None))


FAST = {("ppo", "data4-model2"), ("dpo", "data2-model2-seq2")}
SHAPES = [
    pytest.param(name, sizes, marks=[] if (name, sizes) in FAST else [pytest.mark.slow])
    for name in tiny.METHODS
    for sizes in MESHES
    if sizes != "none"
]


@pytest.mark.parametrize(("name", "sizes"), SHAPES)
def test_three_steps_agree_on_every_mesh(name, sizes):
    experts = "expert" in sizes
    found, plain = losses(name, sizes, experts), losses(name, "none", experts)
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-6)
    assert len(set(plain[:, 0])) == 3


def abstract_step(name):
    """(step, arguments) of one update on the mesh that is set, as shapes with their layout."""
    shape = tiny.shape(width=256, ff=256, kv_heads=4, head_dim=8, layers=2)
    model = transformer.transformer(shape)
    method = tiny.make(name, model)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def make(key):
        policy = model.init(key)
        scored = model.with_scalar(policy)
        start = {"policy": policy, "value": scored}
        state = stepping.make_state(
            method, lambda p: optim.make_optimizer(optim.OptimConfig(), p, 10), key, start
        )
        return state, {"reference": policy, "reward": scored}

    state, frozen = jax.eval_shape(make, key)
    kind = "sft" if name.startswith("ppo") else name
    batch = {k: on_mesh(x) for k, x in tiny.batch(kind, 0, 128).items()}
    if name == "dpo":
        batch["reference_logprobs"] = on_mesh(np.zeros((128, 2, tiny.LENGTH), np.float32))
    if name.startswith("ppo"):
        wide = on_mesh(np.zeros((128, tiny.LENGTH), np.float32))
        batch |= dict.fromkeys(("old_logprobs", "old_values", "advantages", "returns"), wide)
    tx = optim.make_optimizer(optim.OptimConfig(), state.params, 10)
    return update.make_update(method.loss, tx, micro_batches=1), (state, frozen, batch, key)


def on_mesh(x):
    spec = axes.spec(" ".join(["batch", *["time"] * (x.ndim - 1)]))
    sharding = jax.sharding.NamedSharding(jax.sharding.get_abstract_mesh(), spec)
    return jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype), sharding=sharding)


@pytest.fixture(scope="module")
def pod():
    """Two slices of 64 x 4 chips."""
    return AbstractMesh((2, 64, 4), meshes.AXIS_NAMES, axis_types=(AxisType.Explicit,) * 3)


@pytest.mark.parametrize("name", tiny.METHODS)
def test_a_step_keeps_the_layout_of_its_state_and_lowers_for_a_pod(pod, name):
    with jax.sharding.use_abstract_mesh(pod):
        run, arguments = abstract_step(name)
        after, metrics = jax.eval_shape(run, *arguments)
        before = trees.named_leaves(arguments[0])
        split = 0
        for path, x in trees.named_leaves(after).items():
            assert (x.shape, x.dtype) == (before[path].shape, before[path].dtype), path
            spec = jax.typeof(x).sharding.spec
            assert spec == jax.typeof(before[path]).sharding.spec, path
            split += any(entry is not None for entry in spec)
        assert split > 20  # parameters and both moments
        for x in jax.tree.leaves(metrics):
            assert x.shape == ()
        lowered = run.trace(*arguments).lower(lowering_platforms=("tpu", "cuda"))
        assert "sharding" in lowered.as_text()


@pytest.mark.parametrize("name", ["ppo", "ppo-shared"])
def test_collecting_for_a_pod_lowers(pod, name):
    """Sampling is the part of PPO that no gradient passes through."""
    from alignjax.sampling import generate

    with jax.sharding.use_abstract_mesh(pod):
        model = transformer.transformer(tiny.shape(width=256, ff=256, kv_heads=4, head_dim=8))
        sample = generate.make_generate(
            model, tiny.ppo_config().sampling, eos=tiny.EOS, pad=tiny.PAD
        )
        key = jax.eval_shape(lambda: jax.random.key(0))
        given = {k: on_mesh(x) for k, x in tiny.batch(name, 0, 128).items()}
        arguments = (jax.eval_shape(model.init, key), given["prompts"], given["lengths"], key)
        found = jax.eval_shape(sample, *arguments)
        assert jax.typeof(found.tokens).sharding.spec[0] == ("replica", "data")
        sample.trace(*arguments).lower(lowering_platforms=("tpu", "cuda"))


def test_a_mesh_that_kv_heads_do_not_divide_is_refused():
    made = meshes.make_mesh(meshes.MeshConfig(data=2, model=4), jax.devices())
    with meshes.use(made), pytest.raises(ValueError, match=r"model.kv_heads must be a multiple"):
        transformer.transformer(tiny.shape(kv_heads=2))
