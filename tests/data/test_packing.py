import random

import numpy as np
import pytest

from alignjax.data import packing


def test_best_fit_by_hand():
    # Longest first into 10: 7 | 6 | 4 joins 6 (exact) | 3 joins 7 (exact) | 2 alone.
    assert packing.best_fit([2, 7, 4, 3, 6], 10) == [[0], [1, 3], [2, 4]]
    assert packing.best_fit([], 10) == []
    assert packing.best_fit([10, 10], 10) == [[0], [1]]


def test_best_fit_holds_every_document_once_and_fits():
    rng = random.Random(1)
    for _ in range(30):
        capacity = rng.randrange(1, 70)
        lengths = [rng.randrange(1, capacity + 1) for _ in range(rng.randrange(60))]
        rows = packing.best_fit(lengths, capacity)
        assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
        sums = [sum(lengths[index] for index in row) for row in rows]
        assert all(total <= capacity for total in sums)
        assert len(rows) <= len(lengths)
        if len(sums) > 1:  # no two rows could be joined
            assert sum(sorted(sums)[:2]) > capacity
        assert rows == packing.best_fit(list(lengths), capacity)


def test_best_fit_chooses_the_tightest_row():
    # After 8 and 6: room 2 and 4; the 2 goes to room 2 although the row of 6 has room too.
    assert packing.best_fit([8, 6, 2], 10) == [[0, 2], [1]]


@pytest.mark.parametrize("lengths", [[0], [11], [3, -1]])
def test_best_fit_refuses_lengths_that_do_not_fit(lengths):
    with pytest.raises(ValueError, match=r"must lie in 1\.\.10"):
        packing.best_fit(lengths, 10)


@pytest.mark.parametrize("seed", range(4))
def test_documents_that_share_a_beginning_fit_with_it_once_a_row(seed):
    rng = np.random.default_rng(seed)
    groups = np.sort(rng.integers(0, 6, 40)).tolist()
    trunks = [rng.integers(0, 9, 6).tolist()[g] for g in groups]
    trunks = [trunks[groups.index(g)] for g in groups]
    lengths = [t + int(n) for t, n in zip(trunks, rng.integers(1, 12, 40), strict=True)]
    rows = packing.best_fit_of_groups(lengths, trunks, groups, 20)
    assert sorted(i for row in rows for i in row) == list(range(40))
    for row in rows:
        used = sum({groups[i]: trunks[i] for i in row}.values())
        assert used + sum(lengths[i] - trunks[i] for i in row) <= 20
        assert [groups[i] for i in row] == sorted(groups[i] for i in row)
    assert len(rows) <= len(packing.best_fit(lengths, 20))


def test_a_group_by_hand():
    """10 + 2 + 3 + 5 fill one row of 20; apart they would need three of at most 15."""
    assert packing.best_fit_of_groups([12, 13, 15], [10] * 3, [4] * 3, 20) == [[0, 1, 2]]


def test_lay_out_by_hand():
    documents = [([5, 6, 7], [False, True, True]), ([0, 9], [True, True])]
    table = packing.lay_out(documents, 7, pad_id=0, rows=[[0, 1]])
    assert table["tokens"].tolist() == [[5, 6, 7, 0, 9, 0, 0]]
    assert table["loss_mask"].astype(int).tolist() == [[0, 1, 1, 0, 1, 0, 0]]
    assert table["segments"].tolist() == [[1, 1, 1, 2, 2, 0, 0]]
    assert table["positions"].tolist() == [[0, 1, 2, 0, 1, 0, 0]]
    assert [table[name].dtype for name in table] == [np.int32, bool, np.int32, np.int32]


def test_unpack_inverts_lay_out():
    rng = random.Random(2)
    documents = []
    for _ in range(40):
        size = rng.randrange(1, 12)
        ids = [rng.randrange(4) for _ in range(size)]
        documents.append((ids, [False] + [rng.random() < 0.5 for _ in range(size - 1)]))
    rows = packing.best_fit([len(ids) for ids, _ in documents], 16)
    got = packing.unpack(packing.lay_out(documents, 16, pad_id=0, rows=rows))
    order = [index for row in rows for index in row]
    assert [(ids.tolist(), mask.tolist()) for ids, mask in got] == [documents[i] for i in order]
    assert len(rows) < len(documents)
