"""A token of decoding, by the compiler's estimate, beside the HBM roofline.

    python -m tests.planning.decode [SHAPE TOPOLOGY MODEL_AXIS ROWS SLOTS]

The roofline: each device reads its part of the weights and of the cache once, at full bandwidth.
Nothing is run. Needs libtpu.
"""

import os
import sys
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

from alignjax.experiments import common
from alignjax.parallel import mesh as meshes
from alignjax.planning import hlo, memory, planner, programs, schedule
from alignjax.planning import topology as machines

DEFAULTS = ("8b", "v5e:2x4", "8", "64", "2048")


class Token(NamedTuple):
    """Seconds of one token of every row; weights, cache: bytes that a device reads for it."""

    estimate: float
    roofline: float
    weights: float
    cache: float


def token(shape: str, topology: str, model_axis: int, rows: int, slots: int) -> Token:
    """One token of `rows` rows whose caches have so many slots."""
    machine = machines.find(topology)
    devices = len(machine.devices)
    place = common.Slice(
        mesh={"data": devices}, rows=rows, length=slots, remat="full", sampling=model_axis
    )
    config = programs.without_data(common.scale("ppo-here", shape, {"here": place}))
    mesh = meshes.make_mesh(config.mesh, machine.devices)
    with meshes.use(mesh):
        calls = programs.build(config, dense=False).calls
        call = next(each for each in calls if each.name == "generate")
        assert call.mesh is not None
        with meshes.use(call.mesh):
            lowered = call.run.lower(*call.arguments)
    _, text = planner._compile(lowered, machine)
    program, sizes = hlo.parse(text), dict(call.mesh.shape)
    once, twice = (schedule.replay(program, machine, sizes, rounds) for rounds in (1.0, 2.0))
    bound = call.arguments[0]
    read = sum(x.size for x in jax.tree.leaves(bound))
    read -= 0 if config.model.tied else bound.embed.size  # of it each token reads one row
    weights = 2 * read / model_axis  # bfloat16
    cache = memory.tree_bytes(call.cache)
    roofline = (weights + cache) / machine.chip.bandwidth
    return Token(twice.total - once.total, roofline, weights, cache)


if __name__ == "__main__":
    given = sys.argv[1:] or DEFAULTS
    found = token(given[0], given[1], *map(int, given[2:]))
    print(
        f"{' '.join(given)}: {1000 * found.estimate:.2f} ms a token, roofline "
        f"{1000 * found.roofline:.2f} ms ({found.weights / 2**30:.2f} GiB of weights, "
        f"{found.cache / 2**30:.2f} GiB of cache a device): {found.estimate / found.roofline:.2f}"
    )
