"""In these tests implicit rank promotion, a [B] beside a [B, T], is an error."""

import jax
import pytest


@pytest.fixture(autouse=True)
def strict_rank_promotion():
    with jax.numpy_rank_promotion("raise"):
        yield
