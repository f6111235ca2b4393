"""Programs compiled by libtpu for slices that are not here."""

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.commands import cli

pytestmark = [
    pytest.mark.slow,  # minutes: the TPU's compiler
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu"),
]


def plan(*options, code=0):
    """The JSON of a plan in a process of its own: JAX has one platform a process."""
    line = cli.run("plan", "--json", *options, quick=False, code=code)
    return json.loads(line)


def test_a_tiny_run_on_a_slice():
    found = plan("--config=experiments/hh_sft.py:micro", "--topology=v5e:2x4")
    update = found["programs"][1]
    assert (found["devices"], found["fits"], found["own_compiler"]) == (8, True, True)
    assert update["flops"] * 8 == pytest.approx(update["work"]["run"], rel=0.03)
    assert update["estimate_basis"] == "compiler cycles"
    assert {each["axes"] for each in update["collectives"]} == {"data"}
    assert 0 < found["estimated_mfu"] < 1


def test_micro_batches_compile():
    """A bfloat16 unembedding of its own: libtpu's moves of sums out of loops must not end in it."""
    found = plan(
        "--config=experiments/hh_sft.py:micro",
        "--config.model.tied=false",
        "--config.model.compute_dtype=bfloat16",
        "--config.loop.batch_size=16",
        "--config.loop.micro_batches=2",
        "--topology=v5e:2x4",
        "--evaluation=false",
    )
    assert found["fits"]


def test_layers_that_no_loop_holds_are_made_again():
    """Experts in every other layer: stacks of one, whose first pass the compiler must not keep."""
    found = plan(
        "--config=experiments/hh_sft.py:micro",
        "--config.model.layers=4",
        "--config.model.moe.experts=4",
        "--config.model.moe.ff=64",
        "--config.model.moe.every=2",
        "--config.model.remat=full",
        "--config.model.compute_dtype=bfloat16",
        "--topology=v5e:1x1",
        "--evaluation=false",
    )
    update = found["programs"][1]
    assert update["flops"] == pytest.approx(update["work"]["run"], rel=0.03)


def test_one_chip_has_its_kernels_without_a_mesh():
    found = plan("--config=experiments/hh_sft.py:micro", "--topology=v5e:1x1", "--evaluation=false")
    update = found["programs"][1]
    assert update["kernel_flops"] > 0
    assert update["flops"] == pytest.approx(update["work"]["run"], rel=0.03)


def test_an_overflow_is_a_verdict():
    """A batch of 400,000 rows: the compiler itself refuses."""
    found = plan(
        "--config=experiments/hh_sft.py:micro",
        "--config.loop.batch_size=400000",
        "--topology=v5e:2x2",
        "--evaluation=false",
        code=1,
    )
    assert not found["fits"]
    update = found["programs"][1]
    assert (update["name"], update["overflow"]["kind"]) == ("update", "hbm")
    assert update["overflow"]["needed"] > update["limit"]
    assert update["overflow"]["arrays"][0][1] > 2**30
    assert found["verdict"].startswith("verdict: does not fit; update: raise loop.micro_batches")


def test_slices_that_the_replicas_do_not_fill_are_refused():
    process = cli.start(
        "plan", "--config=experiments/hh_sft.py:micro", "--topology=v5e:2x2", "--slices=2"
    )
    _, err = process.communicate(timeout=600)
    assert process.returncode == 2
    assert "mesh.replica must be a multiple of the slices" in err.splitlines()[-1]


def test_an_axis_may_split_a_dimension_of_the_torus():
    """16 is no product of whole dimensions of 4 x 8 x 8."""
    code = (
        "from alignjax.parallel import mesh\n"
        "from alignjax.planning import topology\n"
        "devices = topology.find('v5p:4x8x8').devices\n"
        "print(dict(mesh.make_mesh(mesh.MeshConfig(data=16, expert=16), devices).shape))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "{'replica': 1, 'data': 16, 'model': 1, 'expert': 16}"


def test_a_token_of_decoding_is_near_the_roofline():
    """Llama 3 8B, 64 rows of 2,048 slots on 8 v5e chips: within 1.5 of reading HBM once."""
    code = "from tests.planning import decode; print(*decode.token('8b', 'v5e:2x4', 8, 64, 2048))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    estimate, roofline, weights, cache = map(float, ran.stdout.split())
    assert weights == pytest.approx(2 * (8.03e9 - 128256 * 4096) / 8, rel=1e-3)
    assert cache == pytest.approx(2 * 2 * 32 * 64 * 2048 * 8 * 128 / 8, rel=1e-2)
    assert 1 < estimate / roofline < 1.5
