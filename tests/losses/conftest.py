"""In these tests implicit rank promotion, a [B] beside a [B, T], is an error."""

import jax
import numpy as np
import pytest


@pytest.fixture(autouse=True, scope="package")
def quick_compilation():
    """Hundreds of small programs, each run a few times: compiling them is what takes the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True)
def strict_rank_promotion():
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def rng():
    """Random numbers that do not depend on which tests ran before."""
    return np.random.default_rng(11)
