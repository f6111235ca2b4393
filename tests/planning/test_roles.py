"""Networks that folders give enter a plan as they enter the run: their own shapes, shared alike."""

import dataclasses
import functools
import importlib.util
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import pytest

from alignjax.algorithms import dpo, ppo, reward, sft
from alignjax.core import trees
from alignjax.models.adapters import lora
from alignjax.models.config import TransformerConfig
from alignjax.parallel import mesh as meshes
from alignjax.parallel.mesh import MeshConfig
from alignjax.planning import analytic, planner, topology
from alignjax.runs import assembly, experiment, sources, train
from alignjax.sampling.transforms import SamplingConfig
from alignjax.training import loop as loops
from alignjax.worlds import corpus as world_corpus

SHAPE = TransformerConfig(
    layers=2, width=64, heads=4, kv_heads=2, head_dim=16, ff=96, vocab_size=48
)
SMALL = dataclasses.replace(SHAPE, layers=1, width=32, ff=40)
PPO = ppo.PpoConfig(sampling=SamplingConfig(max_new_tokens=8), epochs=1, minibatches=1)
LORA = lora.LoraConfig(rank=2)
GOLDEN = pathlib.Path(__file__).parents[1] / "runs" / "golden"


DATA = world_corpus.ReviewConfig(documents=64, demonstrations=64, prompts=64, eval_rows=8)


def make(algorithm, *, model=SHAPE, **options):
    return experiment.Experiment(
        algorithm=algorithm,
        model=model,
        data=DATA,
        mesh=MeshConfig(data=8),
        loop=loops.LoopConfig(steps=1, batch_size=8),
        **options,
    )


class Folders:
    """Real runs of one step, each made when it is first asked for."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        rows = world_corpus.make_corpus(DATA).table("demonstrations", "train")
        pairs = {name: x.reshape(-1, 2, *x.shape[1:]) for name, x in rows.items()}
        world_corpus.write_pairs(root / "pairs.npz", pairs, pairs)

    @functools.cached_property
    def policy(self) -> str:
        return self._run("policy", make(sft.SftConfig()))

    @functools.cached_property
    def small(self) -> str:
        return self._run("small", make(reward.RewardConfig(), model=SMALL))

    @functools.cached_property
    def adapters(self) -> str:
        return self._run("adapters", make(sft.SftConfig(), policy=self.policy, adapter=LORA))

    @functools.cached_property
    def scorer(self) -> str:
        return self._run("scorer", make(reward.RewardConfig(), policy=self.policy, adapter=LORA))

    @functools.cached_property
    def learner(self) -> str:
        """PPO whose critic is smaller than its policy."""
        config = make(PPO, policy=self.policy, reward=self.small, critic=self.small)
        return self._run("learner", config)

    def _run(self, name: str, config: experiment.Experiment) -> str:
        config.data = dataclasses.replace(config.data, pairs=str(self.root / "pairs.npz"))
        train.train(config, self.root / name, name=name, log=lambda line: None)
        return str(self.root / name)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return Folders(tmp_path_factory.mktemp("runs"))


def plan(config):
    found = planner.plan(config, topology.find("cpu:8"), lambda line: None)
    return {each.name: each for each in found.programs}


def test_a_reward_model_of_another_size_is_planned_as_it_is(folders):
    found = plan(make(PPO, policy=folders.policy, reward=folders.small))
    same = plan(make(PPO, policy=folders.policy, reward="nothing is there yet"))
    score = found["score"]
    count = analytic.parameters(SMALL) + SMALL.width
    norms = (2 * SMALL.layers + 1) * SMALL.width  # whole on every device, as the head is
    whole = norms + SMALL.width
    assert score.memory.arguments["frozen"] == 4 * ((count - whole) // 8 + whole)
    assert score.memory.arguments["frozen"] < same["score"].memory.arguments["frozen"] / 2
    assert score.flops * 8 == pytest.approx(score.work.run, rel=0.03)
    assert score.work.run < same["score"].work.run / 3
    # The critic can't begin as a network of another size: it is the policy's.
    assert (
        found["update"].memory.arguments["parameters"]
        == (same["update"].memory.arguments["parameters"])
    )


def signature(tree, numbers):
    """(path, shape, dtype, which array it is) of every leaf; arrays are numbered as they appear."""
    return [
        (name, x.shape, str(x.dtype), numbers.setdefault(id(x), len(numbers)))
        for name, x in trees.named_leaves(tree).items()
    ]


def both(config):
    """What a run and a plan begin with."""
    found, kept = [], []
    with meshes.use(meshes.make_mesh(config.mesh)):
        corpus = experiment.make_corpus(config.data, lambda line: None)
        for source in (sources.Stored(), sources.Shapes()):
            parts = assembly.Assembly(config, corpus, source)
            start, frozen = parts.start(), parts.frozen()
            numbers: dict[int, int] = {}
            kept.append((start, frozen))  # so that no two arrays have one id
            found.append([signature(start, numbers), signature(frozen, numbers)])
            networks = {name: parts.network(name) for name in parts.networks()}
            found[-1].append({n: (x.config, x.shares, x.like) for n, x in networks.items()})
    return found


CASES = {
    "PPO, another reward model": lambda f: make(PPO, policy=f.policy, reward=f.small),
    "PPO, another critic": lambda f: make(PPO, policy=f.policy, reward=f.small, critic=f.small),
    "DPO from adapters, whole": lambda f: make(dpo.DpoConfig(), policy=f.adapters),
    "DPO of adapters": lambda f: make(dpo.DpoConfig(), policy=f.policy, adapter=LORA),
    "DPO on with adapters": lambda f: make(dpo.DpoConfig(), policy=f.adapters, adapter=LORA),
    "DPO, a reference": lambda f: make(dpo.DpoConfig(), policy=f.policy, reference=f.adapters),
    "PPO of adapters, adapters score": lambda f: make(
        PPO, policy=f.policy, reward=f.scorer, adapter=LORA
    ),
    "PPO on with adapters, adapters score": lambda f: make(
        PPO, policy=f.adapters, reward=f.scorer, adapter=LORA
    ),
    "PPO whole, adapters score": lambda f: make(PPO, policy=f.policy, reward=f.scorer),
    "PPO on with its critic": lambda f: make(
        PPO, policy=f.learner, reward=f.small, critic=f.learner
    ),
}


SMALLER = {
    "PPO, another reward model": {"reward"},
    "PPO, another critic": {"reward", "value"},
    "PPO on with its critic": {"reward", "value"},
}


@pytest.mark.parametrize(
    "name", [next(iter(CASES)), *(pytest.param(n, marks=pytest.mark.slow) for n in [*CASES][1:])]
)
def test_a_plan_begins_with_the_shapes_of_the_run(name, folders):
    run, planned = both(CASES[name](folders))
    assert run == planned
    small = {role for role, (config, _, _) in run[2].items() if config == SMALL}
    assert small == SMALLER.get(name, set())


ELSEWHERE = """
import pathlib, types
from alignjax.parallel import mesh as meshes
from alignjax.planning import programs, topology
from tests.planning import test_roles

root = pathlib.Path({root!r})
runs = types.SimpleNamespace(**{{path.name: str(path) for path in root.iterdir() if path.is_dir()}})
missing = types.SimpleNamespace(**dict.fromkeys(vars(runs), "is not here yet"))
machine = topology.find("v5e:2x4")
for folders in (runs, missing):
    for make in test_roles.CASES.values():
        config = make(folders)
        with meshes.use(meshes.make_mesh(config.mesh, machine.devices)):
            print(len(programs.build(config, dense=False, evaluation=True).calls))
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_nothing_is_computed_on_devices_that_are_not_here(folders):
    """Every start of a run on a slice: its shapes come from folders without an array."""
    for name in ("policy", "small", "adapters", "scorer", "learner"):
        getattr(folders, name)
    code = ELSEWHERE.format(root=str(folders.root))
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert len(ran.stdout.split()) == 2 * len(CASES)


def test_what_the_data_are_yet_to_train_is_not_held_against_a_run():
    """An outline without a tokenizer of its own cannot tell whether a run's is another one."""
    folder = str(GOLDEN / "sft")
    known = sources.open_origin(folder).fingerprints
    assert known

    def of(fingerprints):
        config, corpus = experiment.Experiment, SimpleNamespace(fingerprints=fingerprints)
        like = SimpleNamespace(config=config, corpus=corpus)
        return sources.Shapes().origin(folder, like=like).fingerprints

    assert of({}) == {}
    assert of({"world": "another"}) == known
    assert of({"tokenizer": "another"}) == known
