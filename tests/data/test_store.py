"""Tables on disk: what is written comes back bit for bit, and damage is told."""

import os

import numpy as np
import pytest
from etils import epath

from alignjax.core import errors
from alignjax.data import cache_files, codec, lazy, packing, pipeline, shard, store, tables
from alignjax.data import unpaired as columns_of
from alignjax.training import algorithm

T, P, PAD = 24, 9, 2


def documents(random, count, longest=T, vocab=100):
    found = []
    for _ in range(count):
        size = int(random.integers(1, longest + 1))
        found.append(
            (random.integers(3, vocab, size).tolist(), (random.random(size) < 0.5).tolist())
        )
    return found


def made(kind, rows=50, vocab=100, length=T):
    random = np.random.default_rng(3)
    if kind == "prompts":
        lengths = random.integers(1, P + 1, rows).astype(np.int32)
        prompts = random.integers(3, vocab, (rows, P)).astype(np.int32)
        prompts[np.arange(P) >= lengths[:, None]] = PAD
        return {"prompts": prompts, "lengths": lengths, "index": np.arange(rows, dtype=np.int32)}
    given = documents(random, rows * 2, length, vocab)
    if kind == "packed":
        members = packing.best_fit([len(ids) for ids, _ in given], length)
        return packing.lay_out(given, length, pad_id=PAD, rows=members)
    flat = packing.lay_out(given, length, pad_id=PAD)
    if kind == "documents":
        return flat
    if kind == "pairs":
        pairs = {name: x.reshape(-1, 2, length) for name, x in flat.items()}
        pairs["lengths"] = pairs["segments"].sum(axis=-1, dtype=np.int32)
        pairs["margin"] = random.normal(size=(rows, 1)).astype(np.float32)
        pairs["index"] = np.arange(rows, dtype=np.int32)
        return pairs
    if kind == "unpaired":
        return {**flat, "desirable": random.random(2 * rows) < 0.5}
    steps = flat["loss_mask"] & (random.random((2 * rows, length)) < 0.3)
    labels = np.where(steps, random.random(steps.shape), 0).astype(np.float32)
    return {**flat, "step_mask": steps, "step_labels": labels}


KINDS = ["packed", "documents", "pairs", "unpaired", "prompts", "steps"]


def write(folder, table, rows=16, vocab=100):
    folder = epath.Path(folder)
    spec = codec.spec_of(table, vocab_size=vocab, pad=PAD)
    infos = []
    for number, start in enumerate(range(0, tables.count(table), rows)):
        part = {name: x[start : start + rows] for name, x in table.items()}
        infos.append(shard.write(folder / f"shard-{number:06d}.rows", part, spec))
    store.write_manifest(folder, store.Manifest({"of": "a test"}, spec, tuple(infos), {}))
    return lazy.table_of(store.Stored(folder, store.read_whole(folder)))


def same(one, other):
    assert list(one) == list(other)
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(other[name]))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_come_back_bit_for_bit(kind, tmp_path):
    table = made(kind)
    read = write(tmp_path, table)
    same(read, table)
    rows = np.random.default_rng(0).integers(0, tables.count(table), 33)
    same(tables.take(read, rows), tables.take(table, rows))
    for name in table:
        assert read[name].shape == table[name].shape
        np.testing.assert_array_equal(read[name][7], table[name][7])
        np.testing.assert_array_equal(read[name][-5:], table[name][-5:])
        np.testing.assert_array_equal(read[name][rows], table[name][rows])


@pytest.mark.parametrize(("vocab", "length"), [(1 << 15, T), ((1 << 15) + 1, T), (100, 1 << 16)])
def test_words_are_wide_enough(vocab, length, tmp_path):
    table = made("documents", rows=3, vocab=vocab, length=length)
    table["tokens"][0, 0] = vocab - 1
    same(write(tmp_path, table, vocab=vocab), table)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_and_reading_in_order_are_those_of_arrays(kind, tmp_path):
    table = made(kind)
    read = write(tmp_path, table)
    for own in (None, np.array([1, 2, 5])):
        pair = [pipeline.Batches(x, batch_size=7, seed=1, own=own) for x in (read, table)]
        for step in (0, 3, 40):
            same(*(batches.batch(step) for batches in pair))
    parts = zip(pipeline.in_order(read, 9), pipeline.in_order(table, 9), strict=True)
    for (one, real), (other, expected) in parts:
        assert real == expected
        same(one, other)
    skipped = list(pipeline.in_order(table, 9, 2))
    same(skipped[0][0], list(pipeline.in_order(table, 9))[2][0])


def test_reading_in_order_copies_no_table(tmp_path, monkeypatch):
    read, sizes = write(tmp_path, made("pairs")), []
    inner = store.Stored.read

    def counted(self, rows, names):
        sizes.append(len(rows))
        return inner(self, rows, names)

    monkeypatch.setattr(store.Stored, "read", counted)
    batches = pipeline.in_order(read, 8)
    next(batches)
    assert sizes == [8]  # all columns at once, of these rows alone
    tables.check(read, "pairs")
    assert sizes == [8]


def test_the_contract_is_checked_by_shapes_alone(tmp_path):
    read = write(tmp_path, made("documents"))
    tables.check(read, "documents")
    with pytest.raises(ValueError, match="must have no other columns"):
        tables.check({**read, "more": read["tokens"]}, "documents")


def test_columns_can_be_computed_with(tmp_path):
    table = made("unpaired")
    read = write(tmp_path, table)
    good = table["desirable"]
    assert np.sum(read["desirable"]) == np.sum(good)
    np.testing.assert_array_equal(~read["desirable"], ~good)
    np.testing.assert_array_equal(read["tokens"] == table["tokens"], np.ones((100, T), bool))
    extended = algorithm.with_columns(read, columns_of.mismatched)
    expected = algorithm.with_columns(table, columns_of.mismatched)
    same(extended, expected)
    batches = [pipeline.Batches(x, batch_size=9, seed=0).batch(3) for x in (extended, expected)]
    same(*batches)


def test_joined_tables_are_read_as_one(tmp_path):
    tall, short = made("documents"), made("packed")
    read = [write(tmp_path / "a", tall), write(tmp_path / "b", short)]
    joined = lazy.table_of(lazy.Joined(read))
    same(joined, {name: np.concatenate([tall[name], short[name]]) for name in tall})
    with pytest.raises(ValueError, match="must have the same columns and lengths"):
        lazy.Joined([read[0], made("documents", length=T + 1)])


def damage(file, act):
    content = bytearray(file.read_bytes())
    content = act(content)
    file.write_bytes(bytes(content))


def flip(place):
    def act(content):
        content[place] ^= 16
        return content

    return act


def test_any_flipped_bit_of_a_row_that_is_read_is_told(tmp_path):
    table = made("pairs", rows=12)
    write(tmp_path, table)
    file = tmp_path / "shard-000000.rows"
    whole = file.read_bytes()
    for place in range(0, len(whole), 7):
        file.write_bytes(whole)
        damage(file, flip(place))
        with pytest.raises(ValueError, match=r"shard must hold .*shard-000000\.rows"):
            np.asarray(
                lazy.table_of(store.Stored(epath.Path(tmp_path), manifest(tmp_path)))["tokens"]
            )
        assert store.verify(epath.Path(tmp_path), manifest(tmp_path))[0].startswith(str(file))


def manifest(folder):
    return store.read_manifest(epath.Path(folder))


@pytest.mark.parametrize("size", [0, 5, 30, 400])
def test_a_cut_shard_is_told_and_no_whole_table(size, tmp_path):
    write(tmp_path, made("pairs"))
    file = tmp_path / "shard-000001.rows"
    damage(file, lambda content: content[:size])
    with pytest.raises(ValueError, match=r"shard must hold what prepare wrote.*Delete the file"):
        shard.Shard(epath.Path(file))
    assert store.read_whole(epath.Path(tmp_path)) is None


def test_a_missing_or_foreign_shard_is_told(tmp_path):
    read = write(tmp_path / "a", made("pairs"))
    write(tmp_path / "b", made("documents"))
    file = tmp_path / "a" / "shard-000002.rows"
    file.write_bytes((tmp_path / "b" / "shard-000002.rows").read_bytes())
    with pytest.raises(ValueError, match="the shard of another table"):
        read["tokens"][40]
    file.unlink()
    with pytest.raises(ValueError, match=r"shard-000002\.rows"):
        lazy.table_of(store.Stored(epath.Path(tmp_path / "a"), manifest(tmp_path / "a")))["tokens"][
            40
        ]


def test_rows_cannot_stand_in_for_each_other(tmp_path):
    """Two rows of one size, swapped: each has a good checksum in the place of the other."""
    table = made("documents", rows=4)
    table = {name: np.repeat(x[:1], 4, axis=0) for name, x in table.items()}
    table["tokens"][1, 0] += 1
    write(tmp_path, table)
    file = tmp_path / "shard-000000.rows"
    content = file.read_bytes()
    size = len(codec.encode(table, codec.spec_of(table, vocab_size=100, pad=PAD))[0]) + codec.CRC
    start = len(content) - 4 * size
    one, other = content[start : start + size], content[start + size : start + 2 * size]
    file.write_bytes(content[:start] + other + one + content[start + 2 * size :])
    with pytest.raises(ValueError, match="a damaged row 0"):
        shard.Shard(epath.Path(file)).record(0)


def test_a_table_that_is_not_laid_out_as_packing_does_is_refused(tmp_path):
    table = made("documents")
    table["positions"][3, 0] = 5
    with pytest.raises(ValueError, match="column positions must be laid out"):
        write(tmp_path, table)


def test_few_files_may_be_open(tmp_path, monkeypatch):
    table = made("documents")
    read = write(tmp_path, table, rows=2)
    source = read["tokens"].source
    monkeypatch.setattr(source, "_limit", 3)
    same(read, table)
    assert len(source._open) == 3


def test_nothing_half_written_is_seen(tmp_path, monkeypatch):
    path = epath.Path(tmp_path) / "a"
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(errors.Failure, match=r"the data cache has no room: No space"):
        cache_files.write(path, b"content")
    assert not path.exists()
    left = tmp_path / f"a{cache_files.PARTIAL}{2**22 + 1}"
    left.write_bytes(b"of a process that is no more")
    cache_files.sweep(epath.Path(tmp_path))
    assert not left.exists()
    own = tmp_path / f"a{cache_files.PARTIAL}{os.getpid()}"
    assert own.exists()  # of a live process


def test_a_json_file_with_another_content_is_none(tmp_path):
    path = epath.Path(tmp_path) / "a.json"
    cache_files.write_json(path, {"rows": 3})
    assert cache_files.read_json(path) == {"rows": 3}
    path.write_text(path.read_text().replace("3", "4"))
    assert cache_files.read_json(path) is None
