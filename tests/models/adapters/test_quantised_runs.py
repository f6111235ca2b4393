"""Runs over a base in few bits: methods, meshes, folders, resumption, export, plans."""

import dataclasses

import jax
import numpy as np
import pytest

from alignjax.algorithms import dpo, sft
from alignjax.core import trees
from alignjax.models import transformer
from alignjax.models.adapters import adapt, lora, merge, peft_format, quantised
from alignjax.models.checkpoints import folder as open_weights
from alignjax.models.config import MoeConfig
from alignjax.parallel import mesh as meshes
from alignjax.runs import evaluation, exchange
from alignjax.sampling import transforms
from alignjax.training import loop as loops
from alignjax.training import update
from alignjax.worlds import corpus as worlds
from tests.algorithms import test_adapted_methods as methods
from tests.commands import cli
from tests.models import tiny
from tests.models.adapters import kinds
from tests.models.adapters.test_adapter_runs import configure, params, record, run
from tests.models.adapters.test_peft_format import GOLDENS
from tests.rollouts import chain_runs

chain_start = chain_runs.chain_start

LORA = lora.LoraConfig(rank=2, targets=("all-linear",))
NF4 = quantised.BaseConfig(bits=4, block=8)


def test_few_bits_need_adapters_and_a_base():
    data = worlds.ReviewConfig()
    with pytest.raises(ValueError, match=r"base.bits must be 0 without adapters"):
        configure(data, base=NF4).validate()
    with pytest.raises(ValueError, match=r"base.bits must be 4, 8, or 0"):
        configure(data, base=quantised.BaseConfig(bits=2)).validate()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_a_step_moves_the_adapters_over_codes(name):
    """A method's first step over codes is that over the numbers that they stand for."""
    whole = jax.jit(methods.MODEL.init)(jax.random.key(7))
    held = quantised.quantised(whole, methods.MODEL.declared, NF4)
    losses = []
    for base in (held, merge.whole(held)):
        method, state, frozen, tx, batch, _ = methods.prepared(name, "lora", base)
        step = update.make_update(method.loss, tx)
        state, metrics = step(state, frozen, batch, jax.random.key(0))
        state, metrics = step(state, frozen, batch, jax.random.key(1))
        losses.append([float(metrics[n].value) for n in ("loss", "grad_norm")])
        assert float(metrics["grad_norm"].value) > 0
    np.testing.assert_allclose(*losses, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_grpo_samples_from_codes_and_trains_over_them(chain_start, tmp_path):
    changes = """
        from alignjax.models.adapters import lora, quantised
        config.adapter = lora.LoraConfig(rank=2, targets=("all-linear",))
        config.base = quantised.BaseConfig(bits=4, block=8)
    """
    file = chain_runs.write(tmp_path, chain_start, changes)
    cli.run("train", f"--config={file}", f"--workdir={tmp_path / 'run'}")
    about = record(tmp_path / "run")["base"]
    assert about["storage"] == "nf4, blocks of 8, double"
    held = cli.stored_checksums(tmp_path / "run")
    assert held
    assert not any("codes" in path or "embed" in path for path in held)


def logits_on(sizes):
    """Logits over codes on a mesh of so many replica, data and model devices; None is no mesh."""
    made = None
    if sizes is not None:
        config = meshes.MeshConfig(replica=sizes[0], data=sizes[1], model=sizes[2])
        made = meshes.make_mesh(config, jax.devices())
    with meshes.use(made):
        model = tiny.model(tied=False, vocab_size=16)
        base = tiny.place(tiny.params(tied=False), tied=False)
        held = quantised.quantised(base, model.declared, NF4)
        own = jax.jit(adapt.adapt(model, LORA).init)(jax.random.key(0))
        rows = tiny.rows(tiny.sequences([5, 8, 1, 7, 8, 3, 2, 6]), 8)

        def states(own, held):
            bound = adapt.bind(own, {"base": held})
            return model.hidden(bound, rows[0], positions=rows[1], segments=rows[2])[0]

        return np.asarray(jax.jit(states)(own, held))


@pytest.mark.slow
def test_a_mesh_computes_the_same_and_may_not_divide_experts():
    np.testing.assert_allclose(logits_on((1, 4, 2)), logits_on(None), atol=2e-5)
    moe = tiny.config(moe=MoeConfig(experts=4, active=2, ff=8))
    made = meshes.make_mesh(meshes.MeshConfig(data=4, model=2), jax.devices())
    with meshes.use(made):
        declared, how = transformer.declare(moe), quantised.BaseConfig(bits=8, block=8)
        with pytest.raises(ValueError, match="where the mesh divides routed experts"):
            quantised.converter(declared, how)


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """(folder, data) after pretraining, and SFT and DPO over its weights in 4 bits."""
    root = tmp_path_factory.mktemp("quantised")
    data = worlds.ReviewConfig(documents=64, demonstrations=64, prompts=64, eval_rows=16)
    answers = worlds.make_corpus(data).table("demonstrations", "train")
    pairs = {name: x.reshape(-1, 2, *x.shape[1:]) for name, x in answers.items()}
    worlds.write_pairs(root / "pairs.npz", pairs, pairs)
    data = dataclasses.replace(data, pairs=str(root / "pairs.npz"))
    run(root / "pretrain", configure(data, steps=2))
    own = {"adapter": LORA, "base": NF4}
    run(
        root / "sft",
        configure(data, algorithm=sft.SftConfig(), policy=str(root / "pretrain"), **own),
    )
    run(root / "dpo", configure(data, algorithm=dpo.DpoConfig(), policy=str(root / "sft"), **own))
    return root, data


@pytest.mark.slow
def test_runs_over_codes_resume_evaluate_sample_and_export(space, tmp_path):
    root, data = space
    for name in ("sft", "dpo"):
        about = record(root / name)["base"]
        assert about["folder"] == str(root / "pretrain")
        assert about["storage"] == "nf4, blocks of 8, double"
        own = trees.named_leaves(params(root / name))
        assert all(path.endswith(("down", "up")) for path in own)
        found = evaluation.evaluate(root / name, rows=8, seed=0)
        assert all(np.isfinite(x.value) for x in found.values())
    assert record(root / "dpo")["base"] == record(root / "sft")["base"]
    short = configure(
        data, algorithm=sft.SftConfig(), adapter=LORA, base=NF4, policy=str(root / "pretrain")
    )
    loop = loops.LoopConfig(steps=2, batch_size=16)
    run(tmp_path / "run", dataclasses.replace(short, loop=loop))
    run(tmp_path / "run", short)
    jax.tree.map(np.testing.assert_array_equal, params(root / "sft"), params(tmp_path / "run"))
    sampled = evaluation.sample(
        root / "dpo", prompt="", count=2, config=transforms.SamplingConfig(max_new_tokens=3), seed=0
    )
    assert len(sampled) == 2
    exchange.export_run(root / "sft", tmp_path / "hf", log=lambda line: None)
    stored = open_weights.open_model(tmp_path / "hf").load()
    joined = merge.whole(evaluation.open_run(root / "sft").joined("policy"))
    for one, other in zip(jax.tree.leaves(stored), jax.tree.leaves(joined), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-9)  # a compiler joins them
    exchange.export_run(root / "sft", tmp_path / "peft", adapters=True, log=lambda line: None)
    shape = evaluation.open_run(root / "sft").parts.shape
    _, own = peft_format.load(tmp_path / "peft", shape)
    jax.tree.map(np.testing.assert_array_equal, own, params(root / "sft"))


@pytest.mark.slow
def test_a_run_goes_on_in_the_same_bits_alone(space, tmp_path):
    root, data = space
    tuned = {"algorithm": dpo.DpoConfig(), "policy": str(root / "sft"), "adapter": LORA}
    with pytest.raises(
        ValueError, match=r"base must be that of the run to go on from; got .*bits=8"
    ):
        run(
            tmp_path / "other", configure(data, base=quantised.BaseConfig(bits=8, block=8), **tuned)
        )
    start = {"policy": str(root / "pretrain"), "adapter": LORA, "algorithm": sft.SftConfig()}
    wide = configure(data, base=quantised.BaseConfig(bits=4), **start)
    with pytest.raises(ValueError, match=r"base.block must divide the inputs of every matrix"):
        run(tmp_path / "other", wide)
    assert not any(tmp_path.iterdir())
    whole = configure(data, steps=1, algorithm=sft.SftConfig(), policy=str(root / "sft"))
    run(tmp_path / "whole", whole)  # which takes the adapters and the codes' numbers in
    assert not adapt.has_adapters(params(tmp_path / "whole"))


@pytest.mark.slow
def test_what_is_trained_whole_begins_as_its_base(space, tmp_path):
    root, data = space
    adapter = lora.LoraConfig(rank=2, targets=("query", "embed"), whole=("norm", "mlp_norm"))
    config = configure(
        data, steps=2, algorithm=sft.SftConfig(), adapter=adapter, policy=str(root / "pretrain")
    )
    run(tmp_path / "run", config)
    base, own = params(root / "pretrain"), params(tmp_path / "run")
    moved = np.abs(own.norm.value - base.norm).max()
    assert 0 < moved < 0.01  # two steps of 1e-3
    assert np.isfinite(own.blocks[0].mlp_norm.value).all()
    found = evaluation.evaluate(tmp_path / "run", rows=8, seed=0)
    assert all(np.isfinite(x.value) for x in found.values())
    lines = []
    exchange.export_run(tmp_path / "run", tmp_path / "hf", log=lines.append)
    stored = open_weights.open_model(tmp_path / "hf")
    assert not stored.config.tied  # the embedding has an adapter, its unembedding has none
    assert any("not tied" in line for line in lines)
    np.testing.assert_array_equal(stored.load().unembed.T, base.embed)
    with pytest.raises(ValueError, match="as tied as before"):
        run(
            tmp_path / "on",
            configure(data, algorithm=sft.SftConfig(), policy=str(tmp_path / "run")),
        )


def test_new_whole_weights_are_not_to_be_used_before_they_are_started():
    model = tiny.model(tied=True)
    own = adapt.adapt(model, lora.LoraConfig(whole=("unembed",))).init(jax.random.key(0))
    assert np.isnan(own.unembed.value).all()
    base = jax.tree.map(np.asarray, tiny.params())
    started = adapt.started(own, base)
    np.testing.assert_array_equal(started.unembed.value, base.embed.T)
    assert kinds.operators(adapt.bind(started, {"base": base}))  # LoRA's; the copy is an array


def test_a_golden_of_peft_is_read_over_codes():
    stored = open_weights.open_model(GOLDENS / "base")
    held = stored.load(convert=quantised.converter(transformer.declare(stored.config), NF4))
    _, own = peft_format.load(GOLDENS / "dora", stored.config, held)
    assert adapt.has_adapters(own)
