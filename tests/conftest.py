"""Every test sees 8 CPU devices, so that meshes are real."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8".strip()

import jax  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture(params=[None, (1, 8, 1), (1, 4, 2), (2, 2, 2)], ids=str)
def any_mesh(request: pytest.FixtureRequest):
    """No mesh, then three shapes of 8 devices, set as the context."""
    from alignjax.parallel import mesh

    sizes = request.param
    made = None
    if sizes is not None:
        config = mesh.MeshConfig(replica=sizes[0], data=sizes[1], model=sizes[2])
        made = mesh.make_mesh(config, jax.devices())
    with mesh.use(made):
        yield made
