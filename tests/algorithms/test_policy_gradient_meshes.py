"""Groups of samples on meshes of 8 devices: the same samples, rows and updates as without."""

import functools

import numpy as np
import pytest

from alignjax.parallel import mesh as meshes
from tests.rollouts import steps

WAYS = {
    "dynamic sampling": {"candidates": 2.0, "curriculum": 2.0, "dead": "drop"},
    "packed": {"pack": True, "kl_in_reward": 0.1},
    "a step behind": {"lag": 1, "correction": "truncate", "epochs": 2},
    "replayed": {"replay": 3, "correction": "mask", "correction_level": "geometric"},
}
ROWS = 32  # prompts drawn; every mesh divides those that are left, too
NAMES = ("loss", "grad_norm", "reward", "dead", "entropy", "length")


def numbers(way):
    made = steps.config(**{"group": 2, **WAYS[way]})
    return [
        {name: metrics[name] for name in NAMES}
        for _, metrics in steps.follow(made, 3, rate=1e-3, rows=ROWS)
    ]


@functools.cache
def alone(way):
    return numbers(way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sizes", [{"data": 8}, {"data": 4, "model": 2}], ids=str)
def test_every_mesh_takes_the_same_steps(way, sizes):
    wanted = alone(way)
    with meshes.use(meshes.make_mesh(meshes.MeshConfig(**sizes))):
        found = numbers(way)
    for one, other in zip(found, wanted, strict=True):
        for name in NAMES:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert wanted[0]["grad_norm"] > 1e-3
