"""Plans of methods on compared samples: every program of an iteration is there and compiles."""

import pytest

from alignjax.algorithms import nash_md, online_dpo, xpo
from alignjax.models.config import TransformerConfig
from alignjax.parallel.mesh import MeshConfig
from alignjax.planning import planner, topology
from alignjax.runs import experiment
from alignjax.sampling.transforms import SamplingConfig
from alignjax.training import loop as loops
from alignjax.worlds.corpus import ReviewConfig

OWN = {"reward": "gold", "sampling": SamplingConfig(max_new_tokens=2)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "rival"),
    [
        (online_dpo.OnlineDpoConfig(group=4, **OWN), False),
        (xpo.XpoConfig(**OWN), True),
        (nash_md.NashMdConfig(**OWN), True),
    ],
    ids=lambda x: type(x).__name__,
)
def test_every_program_is_planned(algorithm, rival):
    config = experiment.Experiment(
        algorithm=algorithm,
        model=TransformerConfig(layers=1, width=32, heads=2, kv_heads=2, head_dim=16, ff=64),
        data=ReviewConfig(documents=64, demonstrations=64, prompts=64, eval_rows=16),
        mesh=MeshConfig(data=4),
        policy="RUN",
        loop=loops.LoopConfig(steps=1, batch_size=8),
    )
    found = planner.plan(config, topology.find("cpu:4"), lambda line: None)
    names = [each.name for each in found.programs]
    assert {"generate", "compare", "update"} <= set(names)
    assert ("generate the rival" in names) == rival
    assert len(set(names)) == len(names)
