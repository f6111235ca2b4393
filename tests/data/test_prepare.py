"""Prepared tables: those that are made in memory, from any number of processes, after any kill."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from etils import epath

from alignjax.data import (
    corpus,
    hh,
    hh_recipe,
    lazy,
    prepare,
    selection,
    speakers,
    store,
    workers,
)
from alignjax.data import sources as preferences
from tests.commands import cli
from tests.data import sources


def cache(folder, **options):
    return prepare.Cache(folder=epath.Path(folder), **{"workers": 1, **options})


def files(folder):
    """Contents of all files that matter of a cache, by name."""
    kept = (".rows", ".json", "states")
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.name.endswith(kept) and "sources" not in file.parts
    }


def table(own, place):
    return lazy.table_of(prepare.prepare(own, place))


def same(one, other):
    assert list(one) == list(other)
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(other[name]))


def corpora(config, place):
    lines = [[], []]
    memory = config.make(lines[0].append)
    return memory, config.prepared(lines[1].append, place), lines


@pytest.mark.parametrize("kind", hh.KINDS)
@pytest.mark.parametrize("named", [True, False])
def test_tables_are_those_made_in_memory(kind, named, tmp_path):
    if named:
        path = sources.folder(tmp_path / "data")
    else:  # hold-out by conversations, with repeated, equal and broken rows
        draw = random.Random(1)
        rows = [sources.row(draw) for _ in range(150)]
        rows[40], rows[77] = rows[3], {**rows[5], "rejected": rows[5]["chosen"]}
        rows.insert(60, {"chosen": 5, "rejected": "\n\nHuman: a"})
        path = tmp_path / "data" / "rows.jsonl"
        sources.write(path, rows)
    config = sources.config(path, on_bad_row="error" if named else "skip", train_rows=100)
    memory, stored, lines = corpora(config, cache(tmp_path / "cache"))
    assert stored.fingerprints == memory.fingerprints
    assert stored._replace(summary=()).kinds == memory.kinds
    for split in ("train", "eval"):
        same(stored.read(kind, split), memory.read(kind, split))
        assert stored.conversation(split, 3) == memory.conversation(split, 3)
    assert lines[0] == [line.partition(" in ")[0] for line in lines[1]]
    assert [s.split("; ")[-1] for s in stored.summary] == [
        s.split("; ")[-1] for s in memory.summary
    ]


def test_shards_are_packed_each_by_itself_and_number_their_rows(tok, tmp_path):
    path = sources.folder(tmp_path / "data")
    pairs, whole = (
        table(sources.recipe_of(path, tok), cache(tmp_path / f"cache{rows}", rows=rows))
        for rows in (50, 16384)
    )
    same(pairs, whole)
    assert len(pairs["index"].source.manifest.shards) == 5
    own = sources.recipe_of(path, tok, "documents")
    shards, together = (table(own, cache(tmp_path / f"c{n}", rows=n)) for n in (50, 16384))
    assert len(shards["tokens"]) > len(together["tokens"])
    assert np.asarray(shards["loss_mask"]).sum() == np.asarray(together["loss_mask"]).sum()


@pytest.mark.parametrize("limit", [1, 49, 50, 51, 120, 1000])
def test_a_limit_takes_the_first_rows(limit, tok, tmp_path):
    path = sources.folder(tmp_path / "data")
    whole, cut = (
        table(sources.recipe_of(path, tok, "prompts", limit=n), cache(tmp_path / "cache", rows=50))
        for n in (0, limit)
    )
    same(cut, {name: np.asarray(x)[:limit] for name, x in whole.items()})


@pytest.mark.slow
def test_any_number_of_workers_makes_the_same_files(tok, tmp_path):
    path = sources.folder(tmp_path / "data", train=(300, 200))
    found = {}
    for count in (1, 2, 4):
        for split in ("train", "eval"):
            own = sources.recipe_of(path, tok, "documents", split)
            prepare.prepare(own, cache(tmp_path / str(count), workers=count, rows=64))
        found[count] = files(tmp_path / str(count))
    assert len(found[1]) > 10
    assert found[1] == found[2] == found[4]


def test_a_finished_table_is_not_made_again(tok, tmp_path, monkeypatch):
    own = sources.recipe_of(sources.folder(tmp_path / "data"), tok)
    first = table(own, cache(tmp_path / "cache"))
    monkeypatch.setattr(hh_recipe.HhRecipe, "read", None)
    same(table(own, cache(tmp_path / "cache")), first)


def test_a_changed_source_never_meets_an_old_table(tok, tmp_path):
    path = sources.folder(tmp_path / "data")
    own, place = sources.recipe_of(path, tok, "prompts"), cache(tmp_path / "cache")
    before = np.asarray(table(own, place)["prompts"])
    file = path / "part0.train.jsonl"
    old, times = file.read_text(), os.stat(file)
    changed = old.replace("river", "water")  # as long, and with the old times
    assert len(changed) == len(old)
    file.write_text(changed)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = np.asarray(table(own, place)["prompts"])
    assert (before != after).any()
    file.write_text(old)
    np.testing.assert_array_equal(np.asarray(table(own, place)["prompts"]), before)


def test_digests_of_untouched_files_are_remembered(tok, tmp_path, monkeypatch):
    path, place = sources.folder(tmp_path / "data"), cache(tmp_path / "cache")
    for file in path.iterdir():
        os.utime(file, (1, 1))
    monkeypatch.setattr("alignjax.data.contents.MOMENTS", -1.0)
    own = sources.recipe_of(path, tok, "prompts")
    prepare.prepare(own, place)
    monkeypatch.setattr("alignjax.data.storage.digest_of", None)
    prepare.prepare(own, place)
    monkeypatch.undo()
    (path / "part1.train.jsonl").touch()
    monkeypatch.setattr("alignjax.data.storage.digest_of", None)
    with pytest.raises(TypeError):
        prepare.prepare(own, place)


@pytest.mark.parametrize("field", ["kind", "length", "speaking", "limit", "pack"])
def test_other_options_are_other_tables(field, tok, tmp_path):
    path, place = sources.folder(tmp_path / "data"), cache(tmp_path / "cache")
    own = sources.recipe_of(path, tok, "documents")
    other = {
        "kind": "demonstrations", "length": 40, "limit": 7, "pack": False,
        "speaking": speakers.Speaking("another", tok.model),
    }[field]  # fmt: skip
    changed = hh_recipe.HhRecipe(**{**vars(own), field: other})
    folders = {os.fspath(prepare.prepare(x, place).folder) for x in (own, changed)}
    assert len(folders) == 2


@pytest.mark.parametrize("act", ["flip", "cut", "delete", "delete note"])
def test_a_damaged_shard_of_an_unfinished_table_is_made_again(act, tok, tmp_path):
    own = sources.recipe_of(sources.folder(tmp_path / "data"), tok)
    place = cache(tmp_path / "cache", rows=50)
    stored = prepare.prepare(own, place)
    whole, folder = files(tmp_path), pathlib.Path(stored.folder)
    (folder / store.MANIFEST).unlink()
    hurt(folder / "shard-000002.rows", act)
    said = []
    again = prepare.prepare(
        own, prepare.Cache(folder=place.folder, workers=1, rows=50, log=said.append)
    )
    assert files(tmp_path) == whole
    assert said == [f"4 of 5 shards at {folder} are kept."]
    same(lazy.table_of(again), lazy.table_of(stored))


def hurt(file, act):
    content = file.read_bytes()
    if act == "delete":
        file.unlink()
    elif act == "delete note":
        file.with_suffix(".json").unlink()
    else:
        cut = content[: len(content) // 2]
        file.write_bytes(
            cut
            + (b"" if act == "cut" else bytes([content[len(cut)] ^ 1]) + content[len(cut) + 1 :])
        )


@pytest.mark.parametrize("act", ["cut", "delete"])
def test_a_shard_that_is_missing_from_a_finished_table_is_made_again(act, tok, tmp_path):
    own = sources.recipe_of(sources.folder(tmp_path / "data"), tok)
    place = cache(tmp_path / "cache", rows=50)
    folder, whole = pathlib.Path(prepare.prepare(own, place).folder), files(tmp_path)
    hurt(folder / "shard-000001.rows", act)
    prepare.prepare(own, place)
    assert files(tmp_path) == whole


def test_repeated_rows_and_ids_are_seen_across_files(tok, tmp_path):
    draw = random.Random(0)
    rows = [sources.row(draw) for _ in range(100)]
    path = tmp_path / "data"
    sources.write(path / "a.train.jsonl", rows[:60])
    sources.write(path / "b.train.jsonl", [*rows[60:], rows[10], rows[11]])
    sources.write(path / "c.eval.jsonl", rows[:1])
    own = sources.recipe_of(path, tok)
    found = prepare.source(own, cache(tmp_path / "cache")).selection
    assert (found.read, found.kept["train"], found.dropped) == (102, 100, {"duplicate row": 2})
    strict = sources.recipe_of(path, tok, max_unusable_share=0.01)
    with pytest.raises(
        ValueError, match=r"b\.train\.jsonl, line 41.*2 of 102 rows \(2 duplicate row"
    ):
        prepare.source(strict, cache(tmp_path / "cache"))
    rows[30]["id"], rows[80]["id"] = 5, 5
    sources.write(path / "a.train.jsonl", rows[:60])
    sources.write(path / "b.train.jsonl", rows[60:])
    with pytest.raises(ValueError, match=r"id must be unique.*b\.train\.jsonl, line 21"):
        prepare.source(own, cache(tmp_path / "cache"))


@pytest.mark.parametrize("count", [1, 2])
def test_the_first_broken_row_is_told(count, tok, tmp_path):
    draw = random.Random(0)
    rows = [sources.row(draw) for _ in range(100)]
    rows[70] = {"chosen": "x"}
    rows[90] = {"rejected": 3}
    path = tmp_path / "data"
    sources.write(path / "a.train.jsonl", rows[:80])
    sources.write(path / "b.train.jsonl", rows[80:])
    sources.write(path / "c.eval.jsonl", rows[:1])
    place = cache(tmp_path / "cache", workers=count)
    with pytest.raises(ValueError, match=r"rejected must be given.*a\.train\.jsonl, line 71"):
        prepare.source(sources.recipe_of(path, tok), place)
    rows[70] = sources.row(draw)
    sources.write(path / "a.train.jsonl", rows[:80])
    with pytest.raises(ValueError, match=r"chosen must be given.*b\.train\.jsonl, line 11"):
        prepare.source(sources.recipe_of(path, tok), place)
    skipping = sources.recipe_of(path, tok, skip=True, max_bad_share=0.02)
    assert prepare.source(skipping, place).selection.dropped == {"missing field": 1}


def test_many_rows_are_told_apart_at_flat_memory():
    """Buckets on disk find what sets in memory do."""
    from alignjax.data import digests

    random = np.random.default_rng(0)
    total = 3 * digests.BUCKET
    values = random.integers(0, 1 << 62, (total, 2)).astype(">u8")
    values[-1000:] = values[:1000]
    values[5] = 0  # none
    found = values.view(np.uint8).reshape(total, 16)
    parts = [
        (found[i : i + 50_000], np.arange(total)[i : i + 50_000]) for i in range(0, total, 50_000)
    ]
    again = np.sort(np.concatenate(list(digests.repeated(parts, total))))
    np.testing.assert_array_equal(
        again, [i for i in range(total - 1000, total) if i != total - 995]
    )
    distinct = sorted({bytes(x) for x in found if x.any()})
    for share in (1e-6, 0.05, 0.5, 1.0):
        bound = digests.smallest(parts, total, share)
        assert bound == distinct[int(np.ceil(share * len(distinct))) - 1]
        held = digests.at_most(found, bound)
        assert held.sum() == sum(bytes(x) <= bound for x in found)
    assert digests.smallest(parts, total, 0.0) == b""


KILLED = """
import sys, pathlib
from etils import epath
from alignjax.data import prepare
from alignjax.text import tokenizer
from tests.data import sources

if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    tok = tokenizer.load_tokenizer(folder / "tokenizer.model")
    own = sources.recipe_of(folder / "data", tok, "documents")
    place = prepare.Cache(folder=epath.Path(sys.argv[2]), workers=int(sys.argv[3]), rows=40)
    print("begun", flush=True)
    print(prepare.prepare(own, place).folder)
"""


def begun(script, *arguments):
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, arguments)], cwd=cli.ROOT, text=True,
        env={**cli.environment(), "PYTHONPATH": str(cli.ROOT)}, stdout=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_killed_at_any_moment_it_goes_on_to_the_same_files(count, tok, tmp_path):
    sources.folder(tmp_path / "data", train=(2500, 2000))
    tok.save(tmp_path / "tokenizer.model")
    script = tmp_path / "prepare.py"
    script.write_text(KILLED)
    begin = time.monotonic()
    whole = begun(script, tmp_path, tmp_path / "whole", count)
    assert whole.stdout.readline() == "begun\n"
    ready = time.monotonic() - begin
    folder = pathlib.Path(whole.communicate()[0].strip())
    seconds = time.monotonic() - begin - ready
    expected, draw, kills, kept = files(tmp_path / "whole"), random.Random(count), 0, 0
    assert len([name for name in expected if name.endswith(".rows")]) > 100
    while kills < 30:
        running = begun(script, tmp_path, tmp_path / "killed", count)
        running.stdout.readline()
        time.sleep(draw.uniform(0, seconds / 4))
        if running.poll() is not None:
            break
        running.send_signal(signal.SIGKILL)
        running.wait()
        kills += 1
        found = files(tmp_path / "killed")
        assert all(expected[name] == x for name, x in found.items() if name.endswith(".rows"))
        kept = max(kept, len(found))
    assert kills > 2
    assert kept > 3
    assert begun(script, tmp_path, tmp_path / "killed", count).wait() == 0
    assert files(tmp_path / "killed") == expected
    assert folder.name in {file.parent.name for file in (tmp_path / "killed").rglob("*.rows")}
    assert not list((tmp_path / "killed").rglob("*.partial-*"))


def mortal(folder, task):
    """A task whose first worker dies."""
    mark = pathlib.Path(folder) / f"{task}"
    if task == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return task * task


def doomed(folder, task):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_worker_is_replaced(tmp_path):
    found = workers.run(mortal, (str(tmp_path),), range(8), 2)
    assert sorted(found) == [n * n for n in range(8)]
    with pytest.raises(RuntimeError, match=r"killed 4 times; 8 of 8 parts are left.*--workers"):
        list(workers.run(doomed, (str(tmp_path),), range(8), 2))


@pytest.mark.slow
def test_workers_leave_with_a_parent_that_is_killed(tok, tmp_path):
    sources.folder(tmp_path / "data", train=(3000, 3000))
    tok.save(tmp_path / "tokenizer.model")
    script = tmp_path / "prepare.py"
    script.write_text(KILLED)
    running = begun(script, tmp_path, tmp_path / "cache", 2)
    own = []
    while len(own) < 2:
        time.sleep(0.05)
        assert running.poll() is None
        own = children(running.pid)
    running.send_signal(signal.SIGKILL)
    running.wait()
    deadline = time.monotonic() + 20
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in own):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def children(pid):
    found = []
    for thread in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in thread.read_text().split()]
    return [
        child for child in found
        if b"spawn_main" in pathlib.Path(f"/proc/{child}/cmdline").read_bytes()
    ]  # fmt: skip


def test_a_cache_that_cannot_be_written_is_told(tok, tmp_path):
    (tmp_path / "file").write_text("")
    own = sources.recipe_of(sources.folder(tmp_path / "data"), tok)
    with pytest.raises(ValueError, match="data cache must be a folder that can be written"):
        prepare.prepare(own, cache(tmp_path / "file" / "cache"))


def test_states_are_a_byte_a_row(tok, tmp_path):
    own = sources.recipe_of(sources.folder(tmp_path / "data"), tok, split="eval")
    found = prepare.source(own, cache(tmp_path / "cache"))
    states = (pathlib.Path(found.folder) / selection.STATES).read_bytes()
    assert states == bytes([selection.EVAL]) * 30
    note = json.loads((pathlib.Path(found.folder) / "selection.json").read_text())
    assert note["values"]["kept"] == {"eval": 30, "train": 0}
    assert not list(pathlib.Path(found.folder).glob("unit-*"))


def test_data_that_are_made_have_nothing_to_prepare():
    assert corpus.DataConfig.prepared is not hh.HhConfig.prepared


def test_unusable_reasons_are_those_of_the_reader():
    assert preferences.DUPLICATE == selection.DUPLICATE


def test_a_beam_pipeline_makes_the_same_files(tok, tmp_path):
    pytest.importorskip("apache_beam", reason="no Apache Beam: pip install 'alignjax[beam]'")
    from alignjax.data import beam

    path = sources.folder(tmp_path / "data")
    for kind in ("documents", "pairs"):
        own = sources.recipe_of(path, tok, kind)
        prepare.prepare(own, cache(tmp_path / "local", rows=50))
        prepare.prepare(
            own, cache(tmp_path / "beam", rows=50, run=beam.runner("--runner=DirectRunner"))
        )
    assert files(tmp_path / "beam") == files(tmp_path / "local")
    sources.write(path / "part1.train.jsonl", [{"chosen": 5}])
    with pytest.raises(ValueError, match=r"chosen must be a non-empty string"):
        prepare.prepare(own, cache(tmp_path / "beam", run=beam.runner("--runner=DirectRunner")))


def test_without_beam_its_option_says_how_to_get_it(monkeypatch):
    from alignjax.data import beam

    monkeypatch.setitem(sys.modules, "apache_beam.options", None)
    with pytest.raises(ValueError, match=r"pip install 'alignjax\[beam\]'"):
        beam.runner("")
