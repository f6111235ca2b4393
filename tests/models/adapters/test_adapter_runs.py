"""Runs under adapters: SFT, reward model, DPO and PPO over the folder of a pretrained policy."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from alignjax.algorithms import dpo, ppo, pretrain, reward, sft
from alignjax.core import trees
from alignjax.models import config as model_config
from alignjax.models import transformer
from alignjax.models.adapters import adapt, ia3, lora
from alignjax.models.checkpoints import folder as open_weights
from alignjax.runs import evaluation, experiment, folder, sources, train
from alignjax.sampling import transforms
from alignjax.training import fingerprints
from alignjax.training import loop as loops
from alignjax.training import optim as optims
from alignjax.worlds import corpus as worlds
from tests.commands import cli

GOLDENS = pathlib.Path(__file__).parent / "goldens"
LORA = lora.LoraConfig(rank=2)
SHAPE = model_config.TransformerConfig(
    layers=1, width=16, heads=2, kv_heads=1, head_dim=8, ff=16, unroll=1
)

pytestmark = pytest.mark.slow  # whole runs: .ci/run has a step for them


def configure(data, steps=3, algorithm=None, **changes):
    return experiment.Experiment(
        algorithm=algorithm or pretrain.PretrainConfig(),
        model=SHAPE,
        data=data,
        optim=optims.OptimConfig(schedule="constant", warmup_steps=0),
        loop=loops.LoopConfig(steps=steps, batch_size=16, checkpoint_every=2),
        **changes,
    )


def run(workdir, config):
    train.train(config, workdir, name=workdir.name, log=lambda line: None)


def record(workdir):
    return json.loads((workdir / "config.json").read_text())


def first(workdir):
    return json.loads((workdir / "metrics.jsonl").read_text().splitlines()[0])


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """(folder, data) after pretraining, and LoRA's SFT, reward model, DPO and PPO."""
    root = tmp_path_factory.mktemp("adapters")
    data = worlds.ReviewConfig(documents=64, demonstrations=64, prompts=64, eval_rows=16)
    answers = worlds.make_corpus(data).table("demonstrations", "train")
    pairs = {name: x.reshape(-1, 2, *x.shape[1:]) for name, x in answers.items()}
    worlds.write_pairs(root / "pairs.npz", pairs, pairs)
    data = dataclasses.replace(data, pairs=str(root / "pairs.npz"))
    sampling = transforms.SamplingConfig(max_new_tokens=4)
    base, tuned = str(root / "pretrain"), str(root / "sft")
    run(root / "pretrain", configure(data))
    stages = {
        "sft": (sft.SftConfig(), {"policy": base}),
        "reward": (reward.RewardConfig(), {"policy": tuned}),
        "dpo": (dpo.DpoConfig(), {"policy": tuned}),
        "fresh": (dpo.DpoConfig(), {"policy": base}),
        "ppo": (
            ppo.PpoConfig(sampling=sampling),
            {"policy": tuned, "reward": str(root / "reward")},
        ),
    }
    for name, (method, start) in stages.items():
        run(root / name, configure(data, algorithm=method, adapter=LORA, **start))
    return root, data


def params(workdir):
    """What a run trained: adapters alone where it has some."""
    return folder.load_params(workdir, evaluation.open_run(workdir).parts.plain)


def test_runs_hold_adapters_only_and_name_their_base(space):
    root, _ = space
    base = params(root / "pretrain")
    for name in ("sft", "reward", "dpo", "fresh", "ppo"):
        about = record(root / name)["base"]
        assert about == {
            "kind": "policy",
            "folder": str(root / "pretrain"),
            "identity": fingerprints.identity(base),
        }
        own = params(root / name)
        sizes = {path: x.shape for path, x in trees.named_leaves(own).items()}
        adapters = {path for path in sizes if path.endswith(("down", "up"))}
        assert sizes.keys() - adapters == {path for path in sizes if path.endswith("scalar")}
        assert len(adapters) == (8 if name == "ppo" else 4)
        assert folder.read(root / name).config.adapter == LORA
        held = cli.stored_checksums(root / name)
        assert not any("embed" in path or "norm" in path for path in held)


def test_each_stage_goes_on_from_the_adapters_before_it(space):
    root, _ = space
    tuned, moved = params(root / "sft"), params(root / "dpo")

    def distance(a, b):
        pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        return max(float(np.abs(x - y).max()) for x, y in pairs)

    assert 0 < distance(moved, tuned) < 0.02  # three steps of 1e-3
    assert record(root / "dpo")["start"]["policy"] == fingerprints.identity(tuned)
    # New adapters are told by the seed: their last bits differ between machines.
    assert not {"policy"} & {*record(root / "sft")["start"], *record(root / "fresh")["start"]}
    for name in ("dpo", "fresh"):
        assert first(root / name)["dpo"] == pytest.approx(np.log(2), abs=1e-5)
    assert first(root / "reward")["bradley_terry"] == pytest.approx(np.log(2), abs=1e-6)
    assert abs(first(root / "ppo")["kl"]) < 1e-4
    critic, scored = params(root / "ppo")["value"], params(root / "reward")
    assert distance(critic, scored) < 0.02


def test_what_a_run_leaves_is_evaluated_and_sampled_as_any_other(space):
    root, _ = space
    for name in ("sft", "reward", "dpo", "ppo"):
        found = evaluation.evaluate(root / name, rows=8, seed=0)
        assert all(np.isfinite(x.value) for x in found.values())
    answers = evaluation.sample(
        root / "dpo",
        prompt="",
        count=8,
        config=transforms.SamplingConfig(max_new_tokens=3),
        seed=0,
    )
    assert len(answers) == 8


def test_a_stopped_run_goes_on_bit_for_bit(space, tmp_path):
    root, data = space
    config = configure(data, algorithm=sft.SftConfig(), adapter=LORA, policy=str(root / "pretrain"))
    loop = loops.LoopConfig(steps=2, batch_size=16)
    run(tmp_path / "run", dataclasses.replace(config, loop=loop))
    run(tmp_path / "run", config)
    jax.tree.map(np.testing.assert_array_equal, params(root / "sft"), params(tmp_path / "run"))
    other = dataclasses.replace(config, adapter=lora.LoraConfig(rank=3))
    with pytest.raises(ValueError, match=r"config.adapter.rank: 2 there, 3 now"):
        run(tmp_path / "run", other)


def test_whole_training_takes_adapters_in(space, tmp_path):
    """A run without adapters starts from the merged policy, and its reference is the same."""
    root, data = space
    config = configure(data, steps=1, algorithm=dpo.DpoConfig(), policy=str(root / "sft"))
    run(tmp_path / "run", config)
    own = params(tmp_path / "run")
    assert not adapt.has_adapters(own)
    base = fingerprints.identity(params(root / "pretrain"))
    tuned = fingerprints.identity(params(root / "sft"))
    assert record(tmp_path / "run")["start"] == {"policy": f"{tuned} over {base}"}
    run(
        tmp_path / "run",
        dataclasses.replace(config, loop=dataclasses.replace(config.loop, steps=2)),
    )
    assert first(tmp_path / "run")["dpo"] == pytest.approx(np.log(2), abs=1e-5)
    base = params(root / "pretrain")
    assert np.abs(own.blocks[0].attention.query - base.blocks[0].attention.query).max() > 1e-3


def test_wrong_starts_are_refused(space, tmp_path):
    root, data = space
    tuned = {"algorithm": sft.SftConfig(), "policy": str(root / "sft")}
    for adapter in (lora.LoraConfig(rank=3), ia3.Ia3Config()):
        with pytest.raises(ValueError, match="adapter must be that of the run to go on from"):
            run(tmp_path / "other", configure(data, adapter=adapter, **tuned))
    with pytest.raises(ValueError, match="policy or weights must name what sft's adapters"):
        configure(data, adapter=LORA, algorithm=sft.SftConfig()).validate()
    dropping = lora.LoraConfig(dropout=0.1)
    for method in (sft.SftConfig(), dpo.DpoConfig()):
        configure(data, adapter=dropping, **{**tuned, "algorithm": method}).validate()
    assert not any(tmp_path.iterdir())


def test_another_base_in_its_folder_is_refused(space, tmp_path):
    _, data = space
    run(tmp_path / "base", configure(data, steps=1))
    config = configure(
        data, steps=1, algorithm=sft.SftConfig(), adapter=LORA, policy=str(tmp_path / "base")
    )
    run(tmp_path / "run", config)
    run(tmp_path / "base", configure(data, steps=2))
    with pytest.raises(ValueError, match="the base of adapters must be the weights"):
        evaluation.open_run(tmp_path / "run").joined("policy")


def test_open_weights_are_a_base_by_their_numbers():
    path = GOLDENS / "base"
    stored = open_weights.open_model(path)
    tree = stored.load()
    about = {"kind": "weights", "folder": str(path), "identity": fingerprints.identity(tree)}
    plain = transformer.transformer(stored.config)

    def base(about):
        origin = sources.Origin(path="run", config=stored.config, base=about)
        return sources.Stored().base(origin, plain, stored.config)

    jax.tree.map(np.testing.assert_array_equal, tree, base(about))
    with pytest.raises(ValueError, match="the base of adapters must be the weights"):
        base({**about, "identity": "other"})
