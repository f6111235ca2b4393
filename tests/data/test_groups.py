"""Groups of raters, from files to the numbers that group_dpo reads."""

import csv

import numpy as np
import pytest

from alignjax.algorithms import group_dpo
from alignjax.data import comparisons, groups, records, rows
from alignjax.text import chat
from tests.data.layouts.community_rows import conversation, turn
from tests.data.test_files import made
from tests.data.test_prepared_files import compare, config_of, corpora, write

ONE, TWO = "Water it early.", "Let it dry."


def voted(number, group, chosen=ONE, **more):
    rejected = TWO if chosen == ONE else ONE
    row = {"prompt": f"Garden {number}?", "chosen": chosen, "rejected": rejected, **more}
    return row if group is None else {**row, "group": group}


def rows_of():
    """On each prompt three votes of india and two of brazil, which mostly disagree."""
    return [
        voted(n, group, chosen)
        for n in range(12)
        for group, chosen in (("india", ONE), ("india", ONE), ("brazil", TWO), ("india", TWO),
                              ("brazil", TWO))
    ]  # fmt: skip


def answers(group=None, first=ONE, second=TWO):
    said = [(chat.Turn(chat.ASSISTANT, text),) for text in (first, second)]
    columns = {} if group is None else {"group": group}
    return rows.Answers(
        prompt=(chat.Turn(chat.HUMAN, "?"),), answers=tuple(said), ranks=(0.0, 1.0), columns=columns
    )


def test_votes_are_joined_within_a_group_and_never_across():
    kept, count = comparisons.merged(
        [answers("a"), answers("b", TWO, ONE), answers("a", TWO, ONE), answers(), answers()]
    )
    assert count == 2
    assert [(rows.group_of(r), r.weight) for r in kept] == [("a", 2.0), ("b", 1.0), ("", 2.0)]
    assert [r.preference for r in kept] == [0.5, None, 1.0]


@pytest.mark.parametrize("names", ["india,brazil", "brazil,india", "brazil,*"])
def test_groups_of_a_file_reach_the_table_in_the_order_of_the_option(names, tmp_path):
    path = write(tmp_path / "rows.jsonl", rows_of())
    memory, stored, _ = corpora(
        config_of(path, vocab_size=300, groups=names, holdout=0.3), tmp_path / "cache"
    )
    compare(memory, stored)
    first, second = names.split(",")
    assert memory.summary[-1] == f"groups: {first} = 0, {second} = 1"
    table = memory.read("pairs", "train")
    india = 0 if first == "india" else 1
    assert table["group"].dtype == np.int32
    assert group_dpo.check_groups(table, 2) == {}
    weights = {g: set(table["weight"][table["group"] == g]) for g in (0, 1)}
    assert weights == {india: {3.0}, 1 - india: {2.0}}
    shares = {g: set(table["preference"][table["group"] == g, 0].round(4)) for g in (0, 1)}
    assert shares[1 - india] == {1.0}
    np.testing.assert_allclose(list(shares[india]), 2 / 3, atol=1e-4)


def test_without_names_no_column_is_there_but_groups_stay_apart(tmp_path):
    corpus, _ = made(
        config_of(write(tmp_path / "rows.jsonl", rows_of()), vocab_size=300, holdout=0.3)
    )
    table = corpus.read("pairs", "train")
    assert "group" not in table
    assert set(table["weight"]) == {2.0, 3.0}
    assert len(corpus.summary) == 2
    with pytest.raises(ValueError, match="must have the column group"):
        group_dpo.check_groups(table, 2)


def test_a_row_without_a_group_is_unknown_and_a_name_that_is_not_listed_is_refused(tmp_path):
    data = [voted(n, "india" if n % 2 else None) for n in range(20)]
    path = write(tmp_path / "rows.jsonl", data)
    corpus, _ = made(config_of(path, vocab_size=300, groups="india,unknown"))
    assert set(corpus.read("pairs", "train")["group"]) == {0, 1}
    corpus, _ = made(config_of(path, vocab_size=300, groups="india"))
    with pytest.raises(records.DataError) as caught:
        corpus.read("pairs", "train")
    assert "group must be one of data.groups india; got 'unknown'" in str(caught.value)
    assert "rows.jsonl, line 1" in str(caught.value)
    with pytest.raises(ValueError, match=r"data.groups must be different names; got 'a, a'"):
        made(config_of(path, vocab_size=300, groups="a, a"))


def test_numbers_follow_the_names_alone():
    assert [groups.number(answers(g), ("a", "*", "b")) for g in ("a", "b", "c", None)] == [
        0, 2, 1, 1
    ]  # fmt: skip
    assert groups.number(answers(3), ("1", "3")) == 1
    assert (groups.names(" a , b,"), groups.said("")) == (("a", "b"), ())


def test_countries_of_community_alignment_are_groups_of_group_dpo(tmp_path):
    table = [
        conversation(
            turn("first", f"Garden {n % 5}?", (ONE, TWO, "Wait.", ""), "ab"[n % 2]),
            conversation_id=f"c{n}", annotator_country=("india", "italy", "")[n % 3],
        )
        for n in range(30)
    ]  # fmt: skip
    for split in ("train", "test"):
        with (tmp_path / f"x.{split}.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    corpus, _ = made(config_of(
        tmp_path, vocab_size=300, groups="india,italy,unknown", max_leaked_share=1.0
    ))  # fmt: skip
    pairs = corpus.read("pairs", "train")
    assert np.bincount(pairs["group"]).tolist() == [10, 10, 10]
    assert group_dpo.check_groups(pairs, 3) == {}
