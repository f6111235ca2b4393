"""Every test sees 8 CPU devices, so that meshes are real."""

import os
import pathlib

os.environ["JAX_PLATFORMS"] = "cpu"
flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8".strip()

import jax  # noqa: E402
import pytest  # noqa: E402

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of real data, which the project does not need; tests that read it may skip."""
    folder = pathlib.Path(os.environ.get("ALIGNJAX_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data in {folder}: set ALIGNJAX_SHARED to a folder that has data/")
    return folder


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
