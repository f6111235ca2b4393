"""Decisions between chunks: every row gets one slot of its own shard, in order, in few sizes."""

import numpy as np
import pytest

from alignjax.sampling import calls, schedule, transforms

FREE = schedule.FREE


@pytest.mark.parametrize(
    ("arguments", "rows", "lengths"),
    [
        ((64, 1, 32, 256, 16, 4), (64, 32, 16, 8), (96, 160, 288)),
        ((64, 1, 32, 256, 16, 1), (64,), (288,)),
        ((64, 1, 32, 256, 16, 2), (64, 32), (160, 288)),
        ((64, 8, 32, 256, 100, 9), (8, 4, 2, 1), (160, 288)),
        ((50, 1, 0, 40, 16, 4), (50, 25, 13), (40,)),
        ((16, 16, 8, 1000, 16, 5), (1,), (133, 258, 508, 1008)),
        ((6, 1, 4, 18, 16, 4), (6,), (22,)),
    ],
)
def test_sizes_are_halves_of_one_another_and_few(arguments, rows, lengths):
    found = schedule.rungs(*arguments)
    assert found == (rows, lengths)
    assert found.programs == len(rows) * len(lengths) + len(rows) - 1


def test_a_cache_is_read_as_far_as_a_chunk_can_come():
    lengths = (96, 160, 288)
    read = [schedule.read_length(lengths, written, 16) for written in (32, 80, 81, 144, 145, 288)]
    assert read == [96, 96, 160, 160, 288, 288]


def test_rows_fit_into_half_of_the_slots_of_the_fullest_shard():
    slots = np.array([[FREE, 1, FREE, 3], [4, FREE, FREE, FREE]])
    kept = schedule.compact(slots, (4, 2, 1))
    np.testing.assert_array_equal(np.take_along_axis(slots, kept, 1), [[1, 3], [4, FREE]])
    assert schedule.compact(np.array([[0, FREE, 2, 3], [FREE] * 4]), (4, 2, 1)) is None
    assert schedule.compact(np.array([[FREE, FREE]]), (2,)) is None


def test_a_full_shard_waits_and_others_fill():
    slots = np.array([[0, 1], [FREE, FREE]])
    waiting = schedule.queue(12, 2, 2, 1)._replace(first=np.array([2, 0]))
    assert schedule.needs_stock(slots, waiting)
    prompts, waiting = schedule.next_stock(waiting)
    np.testing.assert_array_equal(prompts, [[1], [3]])
    after, fill, waiting = schedule.fill(slots, waiting)
    np.testing.assert_array_equal(after, [[0, 1], [6, 7]])
    np.testing.assert_array_equal(fill.pairs, [0, 2])
    np.testing.assert_array_equal(fill.to[1], [0, 1])
    np.testing.assert_array_equal(fill.source[1], [0, 0])  # two samples of one prompt
    np.testing.assert_array_equal(waiting.first, [2, 2])
    assert not schedule.needs_stock(after, waiting)


@pytest.mark.parametrize("seed", range(20))
def test_every_row_has_one_slot_for_as_long_as_it_lives(seed):
    """A whole call played with random lengths, on random sizes."""
    rng = np.random.default_rng(seed)
    shards, group = int(rng.choice([1, 2, 4])), int(rng.choice([1, 2, 3]))
    rows = shards * group * int(rng.integers(1, 20))
    config = transforms.SamplingConfig(
        max_new_tokens=100, rungs=int(rng.integers(1, 5)), slots=shards * int(rng.integers(1, 9))
    )
    size = calls.sizes(config, rows, 8, group=group, shards=shards)
    left, begun, served = rng.integers(1, 60, rows), [], np.zeros(rows, int)
    slots = schedule.start(rows, shards)
    waiting = schedule.queue(0, shards, 1, 0)
    if size.stock:
        slots = np.full((shards, size.slots // shards), FREE)
        waiting = schedule.queue(rows, shards, group, size.stock)
    else:
        begun += list(range(rows))
    held = {}
    while True:
        slots = schedule.released(slots, left > 0)
        while (slots == FREE).any() and waiting.waits.any():
            if schedule.needs_stock(slots, waiting):
                prompts, waiting = schedule.next_stock(waiting)
                held = dict(enumerate(prompts))
            before = slots
            slots, fill, waiting = schedule.fill(slots, waiting)
            if not fill.pairs.any():
                break
            for shard in range(shards):
                for n in range(fill.pairs[shard]):
                    to, place = fill.to[shard, n], fill.source[shard, n]
                    assert before[shard, to] == FREE
                    assert held[shard][place] == slots[shard, to] // group
                    begun.append(slots[shard, to])
        there = slots[slots != FREE]
        if not len(there):
            break
        assert len(set(there.tolist())) == len(there)
        assert (slots // (rows // shards) == np.arange(shards)[:, None])[slots != FREE].all()
        if not waiting.waits.any():
            while (kept := schedule.compact(slots, size.rungs.rows)) is not None:
                slots = np.take_along_axis(slots, kept, axis=1)
            assert set(slots[slots != FREE]) == set(there)
        assert slots.shape[1] in size.rungs.rows
        served[there] += 1
        left[there] -= 1
    assert sorted(begun) == list(range(rows))
    for shard in range(shards):  # in order, within a shard
        own = [row for row in begun if row // (rows // shards) == shard]
        assert own == sorted(own)
    assert (left == 0).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rows": 12}, r"prompts must be a multiple of the mesh's batch axes \(8\); got 12"),
        ({"slots": 12}, "sampling.slots must be a multiple"),
    ],
)
def test_shards_divide_rows_and_slots(options, says):
    config = transforms.SamplingConfig(slots=options.get("slots", 8))
    with pytest.raises(ValueError, match=says):
        calls.sizes(config, options.get("rows", 64), 4, shards=8)
