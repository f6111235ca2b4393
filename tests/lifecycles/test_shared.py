"""Stages in a store: their contents, their links, and who waits for whom."""

import multiprocessing
import time

import pytest

from alignjax.algorithms.sft import SftConfig
from alignjax.lifecycles import shared
from alignjax.runs.experiment import Experiment


def experiment(**options) -> Experiment:
    return Experiment(algorithm=SftConfig(), **options)


def content(config=None, upstream=None, data=None) -> str:
    return shared.content(config or experiment(), upstream or {}, data or {"rows": "1"})


def test_a_content_is_of_configuration_upstream_and_data():
    base = content()
    assert base == content()
    changed = experiment()
    changed.optim.learning_rate *= 2
    longer = experiment()
    longer.loop.steps += 1
    others = [
        content(experiment(seed=1)),
        content(changed),
        content(longer),
        content(upstream={"policy": "a"}),
        content(upstream={"policy": "b"}),
        content(upstream={"reward": "a"}),
        content(data={"rows": "2"}),
    ]
    assert len({base, *others}) == len(others) + 1


def test_where_sources_lie_counts_for_nothing():
    one, other = (
        content(experiment(policy=path), upstream={"policy": "a"}) for path in ("runs/a", "else/b")
    )
    assert one == other


def test_a_link_leads_to_the_store_from_wherever_both_are_moved(tmp_path):
    store, link = tmp_path / "sweep" / "stages", tmp_path / "sweep" / "arms" / "a" / "sft"
    target = shared.place(store, link, "sft", "12ab")
    (target / "mark").write_text("here")
    assert shared.place(store, link, "sft", "12ab") == target
    (tmp_path / "sweep").rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "arms" / "a" / "sft" / "mark").read_text() == "here"


def test_a_folder_of_its_own_and_another_content_are_refused(tmp_path):
    link = tmp_path / "run" / "sft"
    shared.place(tmp_path / "stages", link, "sft", "12ab")
    with pytest.raises(ValueError, match=r"must lead to .*sft-34cd; got another one at"):
        shared.place(tmp_path / "stages", link, "sft", "34cd")
    (tmp_path / "run" / "reward").mkdir()
    with pytest.raises(ValueError, match="must lead to"):
        shared.place(tmp_path / "stages", tmp_path / "run" / "reward", "reward", "12ab")


def hold(folder, ready, go):
    with shared.alone(folder, lambda: None):
        ready.set()
        go.wait(60)


def test_one_process_trains_a_stage_and_a_dead_one_holds_nothing(tmp_path):
    """SIGKILL of the one that has it lets the next one in."""
    context = multiprocessing.get_context("spawn")
    ready, go = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(tmp_path / "sft-1", ready, go))
    holder.start()
    assert ready.wait(120)
    told = []

    def tell():
        told.append(time.monotonic())
        holder.kill()

    with shared.alone(tmp_path / "sft-1", tell):
        assert len(told) == 1
    holder.join()
    with shared.alone(tmp_path / "sft-1", tell):
        assert len(told) == 1
