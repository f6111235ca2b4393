"""What methods collect is planned as it runs: PPO in parts, KTO and BCO by tracing."""

import dataclasses

import pytest

from alignjax.algorithms import ppo, unpaired
from alignjax.experiments import hh_unpaired
from alignjax.parallel import mesh as meshes
from alignjax.parallel.mesh import MeshConfig
from alignjax.planning import planner, programs, topology
from alignjax.sampling.transforms import SamplingConfig
from tests.planning.test_plan import make

MACHINE = "cpu:8"


def examine(config, names, evaluation=False):
    """The programs of these names, compiled."""
    machine = topology.find(MACHINE)
    config = programs.without_data(config)
    mesh = meshes.make_mesh(config.mesh, machine.devices)
    with meshes.use(mesh):
        run = programs.build(config, evaluation=evaluation)
        calls = {call.name: call for call in run.calls}
        sizes = dict(mesh.shape)
        return {name: planner.examine(calls[name], run, machine, sizes) for name in names}


def temporaries(micro_batches, minibatches):
    """Bytes that PPO's programs take for a while, by program."""
    sampling = SamplingConfig(max_new_tokens=8)
    config = make("ppo", mesh=MeshConfig(data=4, model=2))
    config.algorithm = ppo.PpoConfig(sampling=sampling, epochs=1, minibatches=minibatches)
    config.loop = dataclasses.replace(config.loop, batch_size=64, micro_batches=micro_batches)
    programs_of = examine(config, ("score", "experience", "update"))
    return {name: each.memory.temporaries for name, each in programs_of.items()}


@pytest.mark.slow
@pytest.mark.parametrize("minibatches", [1, 2])
def test_ppo_collects_in_no_more_memory_than_it_updates(minibatches):
    sizes = {count: temporaries(count, minibatches) for count in (1, 2, 4)}
    for name in ("score", "experience"):
        by_count = [sizes[count][name] for count in (1, 2, 4)]
        assert by_count[0] > by_count[1] > by_count[2], name
    for count, each in sizes.items():
        assert max(each["score"], each["experience"]) <= each["update"], count


def unpaired_config(micro_batches=2, **options):
    config = hh_unpaired.get_config("micro")
    config.algorithm = unpaired.UnpairedConfig(**options)
    config.loop = dataclasses.replace(config.loop, batch_size=16, micro_batches=micro_batches)
    return config


def names_of(config):
    """The names of a run's programs; nothing is compiled."""
    config = programs.without_data(config)
    with meshes.use(meshes.make_mesh(config.mesh, topology.find(MACHINE).devices)):
        return [call.name for call in programs.build(config, evaluation=True).calls]


JUDGED = ["evaluate answers", "evaluate generate", "evaluate divergence"]


@pytest.mark.parametrize(
    ("options", "collects"),
    [
        ({"method": "kto"}, ["collect"]),
        ({"method": "bco"}, ["collect"]),
        ({"method": "apo_zero_unpaired"}, []),
    ],
)
def test_methods_on_single_answers_are_planned(options, collects):
    names = names_of(unpaired_config(**options))
    assert names == ["init", "annotate", *collects, "update", *JUDGED]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"method": "kto"}, {"method": "bco"}, {"method": "bco", "udm": True}], ids=str
)
def test_single_answers_need_what_the_formulas_say(options):
    names = ("annotate", "collect", "update", "evaluate answers")
    found = examine(unpaired_config(1, **options), names, evaluation=True)
    for name in names:
        assert found[name].flops * 8 == pytest.approx(found[name].work.run, rel=0.03), name
    assert found["collect"].per_step == 1
    # The reference is read once, before the first step; the batch is trained on as it is collected.
    assert "frozen" not in found["update"].memory.arguments
    assert "batch" not in found["update"].memory.resident


@pytest.mark.slow
def test_annotate_and_collect_go_by_micro_batches():
    names = ("annotate", "collect")
    whole, parts = (examine(unpaired_config(count), names) for count in (1, 2))
    for name in names:
        assert parts[name].memory.temporaries < whole[name].memory.temporaries, name
    assert parts["annotate"].tokens * 2 == whole["annotate"].tokens
    assert parts["collect"].tokens == whole["collect"].tokens
