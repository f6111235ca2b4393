"""Batches built ahead: the same ones, in the thread's own time, with errors where they belong."""

import threading
import time

import numpy as np
import pytest

from alignjax.parallel import hosts
from alignjax.training import prefetch


def batch_at(step):
    return {"row": np.arange(16) + 100 * step}


def test_batches_are_those_of_the_function_on_any_mesh(any_mesh):
    with prefetch.Prefetch(batch_at, 5, 16) as ahead:
        for step in (0, 1, 2, 4, 3, 4):
            batch = ahead(step)
            np.testing.assert_array_equal(batch["row"], batch_at(step)["row"])
            placed = ahead.placed(batch)["row"]
            assert placed.sharding == hosts.to_global(batch, 16)["row"].sharding
            np.testing.assert_array_equal(np.asarray(placed), batch["row"])
        np.testing.assert_array_equal(ahead.placed(batch_at(9))["row"], batch_at(9)["row"])


def test_the_next_batch_is_built_while_a_step_runs():
    built, main = [], threading.main_thread()

    def slow(step):
        time.sleep(0.2)
        built.append((step, threading.current_thread() is main))
        return batch_at(step)

    with prefetch.Prefetch(slow, 3, None) as ahead:
        ahead(0)
        time.sleep(0.4)  # a step
        assert built == [(0, True), (1, False)]
        begin = time.monotonic()
        ahead(1)
        assert time.monotonic() - begin < 0.1
        ahead(2)
    assert [step for step, _ in built] == [0, 1, 2]  # none beyond the last


def test_an_error_is_raised_where_its_batch_is_asked_for():
    def bad(step):
        if step == 2:
            raise ValueError("row 77 must hold tokens; got none.")
        return batch_at(step)

    with prefetch.Prefetch(bad, 5, None) as ahead:
        ahead(0)
        ahead(1)
        time.sleep(0.1)
        with pytest.raises(ValueError, match="row 77"):
            ahead(2)
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]
