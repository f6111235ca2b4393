"""Labelled rows from files: the same table from memory and disk, in the order of the categories."""

import json

import numpy as np
import pytest

from alignjax.data import records
from tests.data.test_prepared_files import compare, config_of, corpora


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def labelled(number):
    text = f"Water the garden, row {number}."
    labels = {"a": number % 2, "b": None if number % 3 == 0 else 0.25}
    return {"text": text, "labels": labels, "language": "en", "weight": 1 + number % 2}


@pytest.mark.parametrize("categories", ["a,b", "b,a"])
def test_labels_of_a_file_reach_the_table_in_the_order_of_the_option(categories, tmp_path):
    path = write(tmp_path / "rows.jsonl", [labelled(n) for n in range(24)])
    config = config_of(path, vocab_size=300, categories=categories, holdout=0.3)
    memory, stored, _ = corpora(config, tmp_path / "cache")
    assert memory.categories == stored.categories == tuple(categories.split(","))
    assert memory.kinds == ("labelled",)
    compare(memory, stored)
    table = memory.read("labelled", "train")
    place = categories.split(",").index("a")
    a, b = table["labels"][:, place], table["labels"][:, 1 - place]
    assert set(a) == {0.0, 1.0}
    np.testing.assert_array_equal(table["weight"], 1 + a)
    assert 0 < np.isnan(b).sum() < len(b)
    assert set(b[~np.isnan(b)]) == {0.25}


def test_rows_of_one_label_each_are_read_as_they_are(tmp_path):
    """XSTest's form: a prompt and one of two words."""
    rows = [{"id": n, "prompt": f"Is garden {n} green?", "label": ("safe", "unsafe")[n % 2]}
            for n in range(24)]  # fmt: skip
    path = write(tmp_path / "rows.jsonl", rows)
    config = config_of(path, vocab_size=300, holdout=0.3, fields="text=prompt,labels=label",
                       layout="guard", categories="unsafe,safe")  # fmt: skip
    memory, _, _ = corpora(config, tmp_path / "cache")
    table = memory.read("labelled", "train")
    np.testing.assert_array_equal(table["labels"].sum(axis=1), 1)
    assert 0 < table["labels"][:, 0].sum() < len(table["labels"])
    config.categories = "unsafe"
    memory, _, _ = corpora(config, tmp_path / "cache")
    with pytest.raises(records.DataError, match="the label 'safe' must be a category"):
        memory.read("labelled", "train")
