"""Every experiment file builds, says what it needs, and lowers at full size for its devices."""

import dataclasses
import importlib
import pathlib

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType

from alignjax.core import keys, trees
from alignjax.experiments.common.human import HumanLifecycle
from alignjax.experiments.common.review import ReviewLifecycle
from alignjax.models import transformer
from alignjax.parallel import axes, hosts, mesh
from alignjax.runs import model_shape
from alignjax.training import loop, optim, program, stepping, update
from alignjax.training import method as records

FILES = sorted(
    p for p in pathlib.Path("experiments").glob("*.py") if p.stem not in ("__init__", "common")
)
VARIANTS = {
    "lifecycle": ("", "micro"),
    "ablation": ("", "tiny", "micro"),
    "grpo": ("", "tiny"),
    "smollm2": ("", "cpu", "tiny"),
    "review": ("", "ranked", "scored", "outcome", "process", "process-micro"),
    "scale": ("", "pretrain", "dpo-lora", "tiny", "micro"),
    "grpo_chain": ("", "rloo", "estimators", "micro"),
    "grpo_arithmetic": ("", "cpu", "form", "tiny"),
    "online_dpo": ("", "online_dpo", "xpo", "nash_md", "micro"),
    "iterative_dpo": ("", "all", "micro"),
    "review_grpo": ("", "grpo", "rloo", "micro"),
    "community_alignment": ("", "micro"),
    "distill_review": ("", "micro"),
    "feedback_loop": ("", "ppo", "micro"),
    "guard": ("", "micro", "rows", "rows-micro"),
    "constitution": ("", "ppo", "micro"),
    "deployment": ("", "micro"),
    "prm_chain": ("", "micro"),
    "flame": ("", "noisy", "micro"),
    "red_team": ("", "micro"),
    "own_data": ("", "pretrain", "reward", "dpo", "kto", "kto-tiny", "sft-micro", "micro"),
}
C4 = "c4/en:3.1.0"
STAGES = ("pretrain", "sft", "reward", "dpo", "ppo")


def load(path: pathlib.Path):
    return importlib.import_module(f"alignjax.experiments.{path.stem}")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_file_builds_every_variant_and_states_how_to_run_it(path):
    module = load(path)
    text = module.__doc__
    assert "Hardware:" in text
    assert "Command: alignjax" in text
    family = path.stem if path.stem in VARIANTS else path.stem.split("_")[0]
    for variant in VARIANTS.get(family, ("", "gpu8", "tiny", "micro")):
        config = module.get_config(variant)
        assert config is not module.get_config(variant)  # overrides of one never reach another
    with pytest.raises(ValueError, match="variants are"):
        module.get_config("tinny")
    source = path.read_text()
    others = [f.stem for f in FILES if f != path]
    assert not [name for name in others if f"experiments.{name}" in source]


@pytest.mark.parametrize("path", [p for p in FILES if p.stem.startswith("scale")], ids=str)
def test_presets_fill_their_slices(path):
    """Every method on every slice: rows for each device, and as many tokens a step."""
    module = load(path)
    for name, chosen in module.SLICES.items():
        for method in chosen.methods:
            config = module.get_config(f"{method}-{name}")
            shards = config.mesh.replica * config.mesh.data * config.mesh.expert
            # Samples of a prompt are rows of the update; as many rows at once as elsewhere.
            group = config.algorithm.group if method == "grpo" else 1
            parts = config.loop.micro_batches if method == "grpo" else 1
            rows = config.loop.batch_size * group
            assert config.loop.batch_size % shards == 0, (name, method)
            assert rows % (shards * config.loop.micro_batches) == 0, (name, method)
            pairs = 2 if method.split("-")[0] in ("reward", "dpo") else 1
            tokens = pairs * rows // parts * config.data.length
            assert tokens == chosen.rows * chosen.length, (name, method)
            config.model.validate()
            if method == "dpo-lora":  # refuses targets that the model does not have
                assert config.adapter.declare(transformer.declare(config.model)) is not None


def test_a_method_alone_is_on_the_first_slice_that_has_it():
    module = load(pathlib.Path("experiments/scale_30b_a3b.py"))
    assert module.get_config("") == module.get_config("sft-v5p8")
    assert module.get_config("dpo-lora") == module.get_config("dpo-lora-v5p8")
    assert module.get_config("ppo") == module.get_config("ppo-v5p16")
    with pytest.raises(ValueError, match="variants are pretrain-v5p8"):
        module.get_config("ppo-v5p8")


@pytest.mark.parametrize("path", [p for p in FILES if p.stem.startswith("scale")], ids=str)
def test_presets_pretrain_on_c4_and_their_plans_need_no_data(path, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    data = load(path).get_config("pretrain").data
    assert (data.tfds, data.layout) == (C4, "text")
    assert data.outline().kinds == ("documents",)


def test_lifecycle_classes():
    assert isinstance(load(pathlib.Path("experiments/lifecycle.py")).get_config(), ReviewLifecycle)
    hh = load(pathlib.Path("experiments/hh_lifecycle.py")).get_config("tiny")
    assert isinstance(hh, HumanLifecycle)


def on_abstract_mesh(dimensions):
    """Where a batch lies, on a mesh whose devices are not here."""
    spec = axes.spec(" ".join(["batch", *["slot"] * (dimensions - 1)]))
    return jax.sharding.NamedSharding(jax.sharding.get_abstract_mesh(), spec)


def rows_of_an_update(config, data, method, model, state, key):
    """What a full-size update reads, in shapes: the table's columns, as the method goes on from
    them."""
    record, params = config.algorithm.METHOD, state.params
    batch = program.batch(record.table(config.algorithm), config.loop.batch_size, data)
    policy = jax.eval_shape(model.init, key)
    scored = jax.eval_shape(model.with_scalar, policy)
    roles = record.roles(config.algorithm)
    frozen = {n: scored if role.head else policy for n, role in roles.items() if not role.trained}
    if method.annotate is not None:
        batch |= jax.eval_shape(method.annotate, frozen, batch)
    if method.programs is not None:
        trained = records.trained_roles(roles)
        bound = {name: params[name] if len(trained) > 1 else params for name in trained}
        shapes = program.Shapes(
            networks=dict.fromkeys(roles, model),
            params=params,
            bound={**bound, **frozen},
            frozen=frozen,
            carry=state.carry,
            batch=batch,
            key=key,
        )
        batch = method.programs(shapes).rows
    parts = method.plan.minibatches
    return {
        name: jax.ShapeDtypeStruct(
            (x.shape[0] // parts, *x.shape[1:]), x.dtype, sharding=x.sharding
        )
        for name, x in batch.items()
    }


@pytest.mark.parametrize(("variant", "platform"), [("", "tpu"), ("gpu8", "cuda")])
@pytest.mark.parametrize("stage", STAGES)
def test_full_size_lowers_on_its_own_mesh(stage, variant, platform, monkeypatch):
    monkeypatch.setattr(hosts, "sharding", on_abstract_mesh)
    config = load(pathlib.Path(f"experiments/hh_{stage}.py")).get_config(variant)
    devices = mesh.shape(config.mesh, {"": 16, "gpu8": 8}[variant])
    world = AbstractMesh(devices, mesh.AXIS_NAMES, axis_types=(AxisType.Explicit,) * 3)
    data = config.data.outline()
    key = keys.stream(0, "init")  # made before there are only abstract devices
    with jax.sharding.use_abstract_mesh(world):
        shape = model_shape.resolve(config.model, data)
        model = transformer.transformer(shape)
        record = config.algorithm.METHOD
        task = records.Task(eos=data.eos, pad=data.pad, length=data.length,
                            prompt_length=data.prompt_length)  # fmt: skip
        roles = record.roles(config.algorithm)
        method = record.make(dict.fromkeys(roles, model), config.algorithm, task)
        loop.check_sizes(config.loop, method.plan)

        def tx_of(params):
            return optim.make_optimizer(config.optim, params, 10)

        def initial(key):
            policy = model.init(key)
            start = {"policy": policy, "value": model.with_scalar(policy)}
            return stepping.make_state(method, tx_of, key, start)

        state = jax.eval_shape(initial, key)
        run = update.make_update(
            method.loss, tx_of(state.params), micro_batches=config.loop.micro_batches
        )
        batch = rows_of_an_update(config, data, method, model, state, key)
        after, _ = jax.eval_shape(run, state, {}, batch, key)
        before = {n: jax.typeof(x).sharding.spec for n, x in trees.named_leaves(state).items()}
        kept = {n: jax.typeof(x).sharding.spec for n, x in trees.named_leaves(after).items()}
        assert before == kept  # neither parameters nor Adam's moments lose their layout
        moments = [s for n, s in before.items() if n.startswith("opt_state") and "data" in str(s)]
        assert len(moments) > 10
        assert run.trace(state, {}, batch, key).lower(lowering_platforms=(platform,)).as_text()


def test_stage_experiments_are_the_lifecycle_in_parts():
    whole = load(pathlib.Path("experiments/hh_lifecycle.py")).get_config("tiny")
    for stage in STAGES:
        part = load(pathlib.Path(f"experiments/hh_{stage}.py")).get_config("tiny")
        assert dataclasses.asdict(part.algorithm) == dataclasses.asdict(
            getattr(whole, stage).algorithm
        )
        assert dataclasses.asdict(part.model) == dataclasses.asdict(whole.model)
