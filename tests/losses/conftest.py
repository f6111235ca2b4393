"""In these tests implicit rank promotion, a [B] beside a [B, T], is an error."""

import jax
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def strict_rank_promotion():
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def rng():
    """Random numbers that do not depend on which tests ran before."""
    return np.random.default_rng(11)
