"""Updates communicate as often as they did: a layout that moves more than it must shows here."""

import json

import jax
import pytest

from tests.planning import pinned

RECORDED = json.loads(pinned.FILE.read_text())
QUICK = "sft 4x2"  # the others are slow tests


@pytest.mark.parametrize(
    "name",
    [
        name if name == QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in RECORDED["counts"]
    ],
)
def test_an_update_communicates_as_recorded(name):
    found = pinned.counts(*name.split())
    wanted = RECORDED["counts"][name]
    assert found.keys() == wanted.keys(), name
    if jax.__version__ == RECORDED["jax"]:  # another compiler may join or split some
        assert found == wanted, f"{name}: if it is meant, python -m tests.planning.pinned"


def test_every_method_and_mesh_is_recorded():
    names = {f"{method} {mesh}" for method in pinned.METHODS for mesh in pinned.MESHES}
    assert RECORDED["counts"].keys() == names
    for name, found in RECORDED["counts"].items():
        assert all(times > 0 for times in found.values())
        assert any(key.startswith("all-gather over data") for key in found), name
        model = any("model" in key for key in found)
        assert model == name.endswith("4x2"), name
