"""Sweeps over meshes, micro-batches and recomputation, on 8 CPU devices."""

import json
import re

import pytest

from alignjax.core import shapes
from alignjax.models import config as model_config
from alignjax.models.config import MoeConfig
from alignjax.planning import planner, sweep, sweep_report, topology
from tests.planning import table
from tests.planning.test_plan import SHAPE, command, make


@pytest.fixture(scope="module")
def machine():
    return topology.find("cpu:8")


@pytest.fixture(scope="module")
def sizes():
    return sweep.sizes_of(make("sft", mesh=sweep.meshes.MeshConfig()))


def choices(sizes, machine, config=None):
    return list(sweep.mesh_choices(sizes, config or make("sft"), machine))


def test_meshes_multiply_and_divide(sizes, machine):
    found = choices(sizes, machine)
    assert {(m["data"], m["model"]) for m in found} == {(8, 1), (4, 2)}  # 2 key heads
    for sparse in (False, True):
        more = {"moe": MoeConfig(experts=4, active=2, ff=48)} if sparse else {}
        shape = model_config.TransformerConfig(**SHAPE, vocab_size=128, **more)
        found = choices(sizes._replace(shape=shape), machine)
        assert max(m.get("expert", 1) for m in found) == (4 if sparse else 1)
    long = choices(sizes._replace(length=1024), machine)
    assert max(m.get("seq", 1) for m in long) in (1, 8)  # 1 where the mesh has no such axis


def test_guesses_are_ordered_and_divide(sizes, machine):
    found = sweep.guesses(sizes, make("sft"), machine)
    seconds = [guess.seconds for guess in found]
    assert seconds == sorted(seconds)
    assert all(guess.likely > guess.least for guess in found)
    assert {guess.choice.remat for guess in found} == set(model_config.REMAT)
    for guess in found:
        mesh = dict(guess.choice.mesh)
        rows, rest = divmod(16, guess.choice.micro_batches)
        assert rest == 0
        assert rows % mesh["data"] == 0


def fake(fits_at):
    """An attempt that compiles nothing; fits where `fits_at(choice)`."""

    def attempt(config, machine, guess):
        memory = planner.memories.Memory({"parameters": 1}, {}, 0, 0, 0, 0, 0)
        limit = 10.0 if fits_at(guess.choice) else 0.5
        found = planner.Compiled(
            "update", 1, 8, None, 0.0, memory, limit=limit, roofline=guess.seconds
        )
        return sweep.Attempt(guess.choice, guess, found, "", 0.1)

    return attempt


def run(machine, monkeypatch, fits_at, hbm=2**40, compiles=12):
    monkeypatch.setattr(sweep, "compile_choice", fake(fits_at))
    chip = machine._replace(chip=topology.Chip("fake", hbm, 1e12, 1e12, 1e9, 2))
    return sweep.sweep(make("sft"), chip, lambda line: None, compiles=compiles)


def test_each_mesh_is_tried_until_one_fits(machine, monkeypatch):
    found = run(machine, monkeypatch, lambda choice: True)
    assert len(found.tried) == 2  # two meshes, the fastest of each
    assert found.considered == found.pruned + found.skipped + found.untried + len(found.tried)
    assert found.best is found.tried[0]
    found = run(machine, monkeypatch, lambda choice: choice.remat == "full")
    assert found.best is not None
    assert found.best.choice.remat == "full"


def test_what_cannot_fit_is_not_compiled(machine, monkeypatch):
    found = run(machine, monkeypatch, lambda choice: False, hbm=1000)
    assert (found.pruned, len(found.tried)) == (found.considered, 0)
    assert found.best is None
    assert "nothing that was tried fits" in sweep_report.text(found)


def test_the_limit_is_kept_and_told(machine, monkeypatch):
    found = run(machine, monkeypatch, lambda choice: False, compiles=1)
    assert len(found.tried) == 1
    assert found.untried > 0
    assert "raise --compiles" in sweep_report.text(found)


def test_a_refused_choice_is_a_row(machine, monkeypatch):
    def refuse(*args, **kwargs):
        raise ValueError("sizes must divide")

    guess = sweep.guesses(
        sweep.sizes_of(make("sft", mesh=sweep.meshes.MeshConfig())), make("sft"), machine
    )[0]
    monkeypatch.setattr(sweep.programs, "build", refuse)
    made = sweep.compile_choice(make("sft"), machine, guess)
    assert (made.fits, made.program, made.reason) == (False, None, "sizes must divide")


def test_a_run_that_no_mesh_divides_is_refused(machine):
    config = make("sft")
    config.loop.batch_size = 9
    with pytest.raises(ValueError, match="--sweep must find a mesh of 8 devices"):
        sweep.sweep(config, machine, lambda line: None)


@pytest.mark.slow
def test_real_updates_are_ranked(machine):
    found = sweep.sweep(make("sft"), machine, lambda line: None, compiles=3)
    assert found.best is not None
    totals = [each.program.memory.total for each in found.tried]
    assert totals == sorted(totals)  # no times on a CPU
    for each in found.tried:
        assert each.program.memory.total > each.guess.least  # a lower bound
    made = json.loads(json.dumps(sweep_report.table(found, "tiny")))
    assert made["tried"][0]["fits"]
    fields = {*made, *made["tried"][0]}
    assert not fields - set(re.findall(r"`(\w+)`", table.TEXT))
    assert "ordered by memory" in sweep_report.text(found)


@pytest.mark.slow
def test_the_command_line():
    code, out, err = command("--topology=cpu:4", "--sweep", "--compiles=1", "--json")
    found = json.loads(out)
    assert (code, len(found["tried"]), found["fits"]) == (0, 1, True)
    assert "sweep: 1 of at most 1" in err
    with pytest.raises(ValueError, match="--compiles"):
        shapes.check_number("--compiles", 0, minimum=1)
    code, _, err = command("--topology=cpu:4", "--sweep", "--compiles=0")
    assert (code, err.count("\n")) == (2, 1)
