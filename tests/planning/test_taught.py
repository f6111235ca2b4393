"""Plans of distillation: who samples, who scores, and the rows that the update reads."""

import pytest

from alignjax.algorithms import distill, minillm, sdft, sdpo
from alignjax.models import config as model_config
from alignjax.parallel.mesh import MeshConfig
from alignjax.planning import planner, topology
from alignjax.runs import experiment
from alignjax.sampling import transforms
from alignjax.training import loop as loops
from alignjax.worlds import corpus as worlds

SHAPE = model_config.TransformerConfig(
    layers=1, width=32, heads=4, kv_heads=2, head_dim=8, ff=32, vocab_size=48
)
SAMPLING = transforms.SamplingConfig(max_new_tokens=8)
NOT_YET = "nothing is there yet"
CASES = {
    "gkd": (
        distill.DistillConfig(on_policy=0.5, others="teacher", sampling=SAMPLING),
        {"teacher": NOT_YET},
        {"generate policy", "generate teacher", "update"},
    ),
    "minillm": (
        minillm.MiniLlmConfig(sampling=SAMPLING),
        {"teacher": NOT_YET},
        {"generate policy", "score", "update"},
    ),
    "sdft": (
        sdft.SdftConfig(sampling=SAMPLING, top_k=4),
        {"policy": NOT_YET},
        {"collect", "update"},
    ),
    "sdpo": (
        sdpo.SdpoConfig(reward="gold", group=2, sampling=SAMPLING, top_k=4),
        {"policy": NOT_YET},
        {"generate", "lessons", "update"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_plan_has_the_programs_of_the_run(name):
    algorithm, sources, programs = CASES[name]
    config = experiment.Experiment(
        algorithm=algorithm,
        model=SHAPE,
        data=worlds.ReviewConfig(documents=64, demonstrations=64, prompts=64, eval_rows=8),
        mesh=MeshConfig(data=8),
        loop=loops.LoopConfig(steps=1, batch_size=16),
        **sources,
    )
    found = planner.plan(config, topology.find("cpu:8"), lambda line: None)
    assert programs <= {each.name for each in found.programs}
