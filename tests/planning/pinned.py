"""How often updates communicate: `python -m tests.planning.pinned` records it anew.

Counts are of each kind over each mesh axis, loops counted, in the programs of XLA for CPU with few
optimizations: what the model's layouts ask for, before a compiler joins any of it.
"""

import json
import os
import pathlib

import jax

from alignjax.parallel import mesh as meshes
from alignjax.parallel.mesh import MeshConfig
from alignjax.planning import collectives, hlo, programs, topology

FILE = pathlib.Path(__file__).with_name("collectives.json")
MESHES = {"8x1": MeshConfig(data=8), "4x2": MeshConfig(data=4, model=2)}
METHODS = ("sft", "dpo", "ppo")


def counts(method: str, mesh: str) -> dict[str, int]:
    """Collectives of one update as "kind over axes": times."""
    from tests.planning.test_plan import make

    machine = topology.find("cpu:8")
    config = programs.without_data(make(method, model={"layers": 2}, mesh=MESHES[mesh]))
    laid = meshes.make_mesh(config.mesh, machine.devices)
    assert laid is not None
    with meshes.use(laid):
        run = programs.build(config)
        update = next(call for call in run.calls if call.name == "update")
        text = update.run.lower(*update.arguments).compile().as_text()
    totals = collectives.totals(hlo.parse(text), dict(laid.shape))
    return {f"{t.kind} over {t.axes}": round(t.times) for t in sorted(totals)}


def record() -> None:
    """Writes the file."""
    made = {f"{method} {mesh}": counts(method, mesh) for method in METHODS for mesh in MESHES}
    FILE.write_text(json.dumps({"jax": jax.__version__, "counts": made}, indent=1) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    record()
