"""What judges a run, planned: as a command of its own, or in the loop beside all that it holds."""

import dataclasses

import pytest

from alignjax.models.adapters import lora
from alignjax.parallel.mesh import MeshConfig
from alignjax.planning import planner, report, topology
from tests.planning.test_plan import make


def plan(config, evaluation=False):
    return planner.plan(config, topology.find("cpu:8"), lambda line: None, evaluation=evaluation)


def config_of(every, **options):
    config = make("dpo", mesh=MeshConfig(data=8), **options)
    config.loop = dataclasses.replace(config.loop, evaluate_every=every, evaluate_rows=16)
    return config


def whole(memory, *names):
    """Bytes of these categories that are there, read or not."""
    parts = (memory.arguments, memory.resident)
    return sum(part.get(name, 0) for part in parts for name in names)


def test_a_loop_that_evaluates_keeps_what_it_compares_with():
    found = plan(config_of(every=2))
    by_name = {each.name: each for each in found.programs}
    judged = [name for name, each in by_name.items() if each.stage == "loop evaluation"]
    assert judged == ["evaluate pairs", "evaluate generate", "evaluate divergence"]
    update = by_name["update"].memory
    assert update.resident["frozen"] == update.arguments["parameters"]  # the reference
    assert by_name["evaluate pairs"].tokens == 2 * 16 * 24
    for name in judged:
        memory, each = by_name[name].memory, by_name[name]
        assert each.flops * 8 == pytest.approx(each.work.run, rel=0.03), name
        for part in ("parameters", "optimizer", "frozen"):
            assert whole(memory, part) == whole(update, part), (name, part)
    assert "evaluate pairs (in the loop, to evaluate;" in report.text(found)
    # One that does not evaluate lets the reference go.
    alone = {each.name: each for each in plan(config_of(every=0)).programs}
    assert [*alone] == ["init", "annotate", "update"]
    assert whole(alone["update"].memory, "frozen") == 0


def test_a_base_under_adapters_is_there_once():
    options = {"policy": "a run", "adapter": lora.LoraConfig(rank=2)}
    for every in (0, 2):
        found = plan(config_of(every, **options), evaluation=True)
        by_name = {each.name: each for each in found.programs}
        adapters = by_name["update"].memory.arguments["parameters"]
        base = by_name["annotate"].memory.arguments["frozen"]
        for name in ("evaluate pairs", "evaluate generate", "evaluate divergence"):
            memory = by_name[name].memory
            assert whole(memory, "parameters", "frozen") == adapters + base, (name, every)
            assert memory.padding < base / 4


def test_rows_that_the_mesh_does_not_divide_are_refused():
    config = config_of(every=2)
    config.loop = dataclasses.replace(config.loop, evaluate_rows=12)
    with pytest.raises(ValueError, match=r"loop\.evaluate_rows must be a multiple"):
        plan(config)
