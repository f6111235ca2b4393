"""Where a command keeps its compiled programs."""

import jax
import pytest

from alignjax.commands import common

OPTION = "jax_compilation_cache_dir"


@pytest.fixture
def cache():
    """Sets the option; it is as before when the test ends."""
    before = jax.config.values[OPTION]
    yield lambda folder: jax.config.update(OPTION, folder)
    jax.config.update(OPTION, before)


def test_in_the_folder_of_the_run_unless_another_is_named(cache, tmp_path):
    cache(None)
    with common.compilation_cache(tmp_path):
        assert jax.config.values[OPTION] == str(tmp_path / "compiled")
    cache("elsewhere")
    with common.compilation_cache(tmp_path):
        assert jax.config.values[OPTION] == "elsewhere"
