"""Every test sees 8 CPU devices, so that meshes are real."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8".strip()

import jax  # noqa: E402
import pytest  # noqa: E402

MESHES = {
    "none": None,
    "data8": {"data": 8},
    "data4-model2": {"data": 4, "model": 2},
    "replica2-data2-model2": {"replica": 2, "data": 2, "model": 2},
    "data2-model2-seq2": {"data": 2, "model": 2, "seq": 2},
}


SLOW = ("replica2-data2-model2",)


@pytest.fixture(
    params=[pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in MESHES]
)
def any_mesh(request: pytest.FixtureRequest):
    """No mesh, then shapes of 8 devices, set as the context."""
    from alignjax.parallel import mesh

    sizes = MESHES[request.param]
    current = None if sizes is None else mesh.make_mesh(mesh.MeshConfig(**sizes), jax.devices())
    with mesh.use(current):
        yield current
