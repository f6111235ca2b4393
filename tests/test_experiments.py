"""Every experiment file builds, says what it needs, and lowers at full size for its devices."""

import dataclasses
import importlib
import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType

from alignjax.core import keys, trees
from alignjax.data import corpus
from alignjax.models import transformer
from alignjax.parallel import axes, mesh
from alignjax.runs import experiment
from alignjax.training import loop, optim, update
from experiments.common import human, review

FILES = sorted(
    p for p in pathlib.Path("experiments").glob("*.py") if p.stem not in ("__init__", "common")
)
VARIANTS = {
    "lifecycle": ("", "micro"),
    "smollm2": ("", "cpu", "tiny"),
    "scale": ("", "pretrain", "dpo-lora", "tiny", "micro"),
}
STAGES = ("pretrain", "sft", "reward", "dpo", "ppo")


def load(path: pathlib.Path):
    return importlib.import_module(f"experiments.{path.stem}")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_file_builds_every_variant_and_states_how_to_run_it(path):
    module = load(path)
    text = module.__doc__
    assert "Hardware:" in text
    assert "Command: alignjax" in text
    for variant in VARIANTS.get(path.stem.split("_")[0], ("", "gpu8", "tiny", "micro")):
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
            assert config.loop.batch_size % (shards * config.loop.micro_batches) == 0, (
                name,
                method,
            )
            pairs = 2 if method.split("-")[0] in ("reward", "dpo") else 1
            tokens = pairs * config.loop.batch_size * config.data.length
            assert tokens == chosen.rows * chosen.length
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


def test_lifecycle_classes():
    assert isinstance(
        load(pathlib.Path("experiments/lifecycle.py")).get_config(), review.ReviewLifecycle
    )
    hh = load(pathlib.Path("experiments/hh_lifecycle.py")).get_config("tiny")
    assert isinstance(hh, human.HumanLifecycle)


def abstract_batch(config: experiment.Experiment) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes that a full-size update reads, with the layout of the batch axes."""
    stage = experiment.method_name(config.algorithm)
    shape = (config.loop.batch_size, config.data.length)
    if stage in ("reward", "dpo"):
        shape = (config.loop.batch_size, 2, config.data.length)
    names = {name: jnp.int32 for name in ("tokens", "segments", "positions")}
    names["loss_mask"] = jnp.bool_
    if stage == "ppo":
        new = config.algorithm.sampling.max_new_tokens
        rows = config.loop.batch_size // config.algorithm.minibatches
        shape = (rows, config.data.prompt_length + new)
        for name in ("old_logprobs", "old_values", "advantages", "returns"):
            names[name] = jnp.float32
    batch = {}
    for name, dtype in names.items():
        spec = axes.spec(" ".join(["batch", *["time"] * (len(shape) - 1)]))
        sharding = jax.sharding.NamedSharding(jax.sharding.get_abstract_mesh(), spec)
        batch[name] = jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    if stage == "dpo":
        spec = axes.spec("batch choice time")
        sharding = jax.sharding.NamedSharding(jax.sharding.get_abstract_mesh(), spec)
        batch["reference_logprobs"] = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
    return batch


@pytest.mark.parametrize(("variant", "platform"), [("", "tpu"), ("gpu8", "cuda")])
@pytest.mark.parametrize("stage", STAGES)
def test_full_size_lowers_on_its_own_mesh(stage, variant, platform):
    config = load(pathlib.Path(f"experiments/hh_{stage}.py")).get_config(variant)
    devices = mesh.shape(config.mesh, {"": 16, "gpu8": 8}[variant])
    world = AbstractMesh(devices, mesh.AXIS_NAMES, axis_types=(AxisType.Explicit,) * 3)
    data = corpus.Corpus(
        vocab_size=config.data.vocab_size, pad=0, eos=2, length=config.data.length,
        prompt_length=config.data.prompt_length, table=None, text=None, fingerprints={},
    )  # fmt: skip
    key = keys.stream(0, "init")  # made before there are only abstract devices
    with jax.sharding.use_abstract_mesh(world):
        shape = experiment.resolve_model(config.model, data)
        model = transformer.transformer(shape)
        method = experiment.make_method(config.algorithm, model, data)
        loop.check_sizes(config.loop, method.plan)

        def tx_of(params):
            return optim.make_optimizer(config.optim, params, 10)

        def initial(key):
            policy = model.init(key)
            start = {"policy": policy, "reward": model.with_scalar(policy)}
            return loop.make_state(method, tx_of, key, start)

        state = jax.eval_shape(initial, key)
        run = update.make_update(
            method.loss, tx_of(state.params), micro_batches=config.loop.micro_batches
        )
        batch = abstract_batch(config)
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
