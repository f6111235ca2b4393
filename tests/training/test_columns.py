"""Columns computed once, kept on disk: the same bits as computed anew, and never another's."""

import pathlib

import jax
import numpy as np
import pytest
from etils import epath

from alignjax import training
from alignjax.algorithms import dpo, unpaired
from alignjax.data import lazy
from alignjax.models import transformer
from alignjax.training import annotation
from tests.training import tiny

MODEL = transformer.transformer(tiny.shape())
ROWS = 8


def made(name="dpo", rows=20):
    if name == "kto":
        method = unpaired.unpaired(MODEL, unpaired.UnpairedConfig(method="kto"))
        _, _, frozen, _ = tiny.ready("sft", MODEL)
        labels = np.random.default_rng(1).random(rows) < 0.6
        return method, frozen, {**tiny.rows(0, rows), "desirable": labels}
    method, _, frozen, _ = tiny.ready(name, MODEL)
    return method, frozen, tiny.batch(name, 0, rows)


class Counted:
    """A method whose annotation counts the batches that are computed."""

    def __init__(self, monkeypatch):
        self.batches, inner = 0, annotation._parts

        def parts(*arguments):
            for part in inner(*arguments):
                self.batches += 1
                yield part

        monkeypatch.setattr(annotation, "_parts", parts)


def annotated(made, folder):
    method, frozen, table = made
    return training.annotated(method, frozen, table, ROWS, folder and epath.Path(folder))


def same(one, other):
    assert list(one) == list(other)
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(other[name]))


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_kept_columns_are_those_computed_anew(name, tmp_path, monkeypatch):
    given = made(name)
    expected = annotated(given, None)
    counted = Counted(monkeypatch)
    same(annotated(given, tmp_path), expected)
    assert counted.batches == 3
    again = annotated(made(name), tmp_path)
    assert counted.batches == 3
    same(again, expected)
    assert any(lazy.is_lazy(column) for column in again.values())


def changed(given, what):
    method, frozen, table = given
    if what == "row":
        tokens = table["tokens"].copy()
        tokens[13, 0, 2] += 1
        return method, frozen, {**table, "tokens": tokens}
    if what == "order":
        return method, frozen, {name: x[::-1].copy() for name, x in table.items()}
    if what == "weight":
        leaves, tree = jax.tree.flatten(frozen["reference"])
        leaves[0] = leaves[0].at[(0,) * leaves[0].ndim].add(1e-6)
        return method, {**frozen, "reference": jax.tree.unflatten(tree, leaves)}, table
    other = transformer.transformer(tiny.shape(rope_theta=500.0))
    return dpo.dpo(other, dpo.DpoConfig()), frozen, table  # the same shapes, another program


@pytest.mark.parametrize("what", ["row", "order", "weight", "program"])
def test_what_changed_never_meets_old_columns(what, tmp_path, monkeypatch):
    counted = Counted(monkeypatch)
    annotated(made(), tmp_path)
    other = changed(made(), what)
    found = annotated(other, tmp_path)
    assert counted.batches == 6
    same(found, annotated(other, None))


def test_a_killed_computation_goes_on_after_whole_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(annotation, "ROWS", ROWS)
    expected, counted = annotated(made(), None), Counted(monkeypatch)
    write = annotation._write

    def dying(place, number, *rest):
        if number == 2:
            raise KeyboardInterrupt
        return write(place, number, *rest)

    monkeypatch.setattr(annotation, "_write", dying)
    with pytest.raises(KeyboardInterrupt):
        annotated(made(), tmp_path)
    monkeypatch.setattr(annotation, "_write", write)
    assert counted.batches == 3
    same(annotated(made(), tmp_path), expected)
    assert counted.batches == 4


def shards(folder):
    return sorted(pathlib.Path(folder).rglob("shard-*.rows"))


def test_damaged_columns_are_told_or_computed_again(tmp_path, monkeypatch):
    expected, counted = annotated(made(), None), Counted(monkeypatch)
    annotated(made(), tmp_path)
    (file,) = shards(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:-3])
    same(annotated(made(), tmp_path), expected)
    assert counted.batches == 6
    file.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    damaged = annotated(made(), tmp_path)
    with pytest.raises(ValueError, match=rf"a damaged row 19 \({file}\)\. Delete the file"):
        np.asarray(damaged["reference_logprob"] if "reference_logprob" in damaged else
                   next(x for x in damaged.values() if lazy.is_lazy(x)))  # fmt: skip
    file.unlink()
    same(annotated(made(), tmp_path), expected)
