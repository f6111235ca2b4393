"""Every test sees 8 CPU devices, so that meshes are real.

Programs are small and run a few times, so that compiling them is what takes the time: they are
compiled with few optimizations, and equal ones once a session, whichever process asks.
"""

import os
import shutil
import tempfile

CACHE = "JAX_COMPILATION_CACHE_DIR"
OWN_CACHE = CACHE not in os.environ  # of the session's first process, which the others inherit
if OWN_CACHE:
    os.environ[CACHE] = tempfile.mkdtemp(prefix="alignjax-tests-")
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.02",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8".strip()

import jax  # noqa: E402
import pytest  # noqa: E402

from tests import faults, tiers  # noqa: E402

MESHES = {
    "none": None,
    "data8": {"data": 8},
    "data4-model2": {"data": 4, "model": 2},
    "replica2-data2-model2": {"replica": 2, "data": 2, "model": 2},
    "data2-model2-seq2": {"data": 2, "model": 2, "seq": 2},
}


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    tiers.mark(items)
    faults.mark(items)
    if _are_faults(config):
        faults.order(items)


def _are_faults(config: pytest.Config) -> bool:
    return config.option.markexpr == "faults"


def pytest_runtest_setup(item: pytest.Item) -> None:
    if _are_faults(item.config):
        faults.skip_when_late()


def pytest_report_header(config: pytest.Config) -> str:
    return f"{faults.SEED}={os.environ.get(faults.SEED, '0')}" if _are_faults(config) else ""


def pytest_unconfigure() -> None:
    if OWN_CACHE:
        shutil.rmtree(os.environ[CACHE], ignore_errors=True)


@pytest.fixture
def optimised():
    """Programs are compiled as those for use are, for what is measured of them."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


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
