"""Runs on prepared tables: the bits of runs in memory, one folder for all, damage told by name."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from etils import epath

from alignjax.algorithms import dpo, pretrain, sft
from alignjax.data import hh, lazy, prepare
from alignjax.models.config import TransformerConfig
from alignjax.runs import caches, evaluation, train
from alignjax.runs.experiment import Experiment
from alignjax.sampling import transforms
from alignjax.training import annotation
from alignjax.training.loop import LoopConfig
from tests.commands import cli
from tests.data import sources

SHAPE = TransformerConfig(layers=1, width=16, heads=2, kv_heads=1, head_dim=8, ff=32)


def experiment(path, algorithm=None, **loop):
    loop = {"steps": 4, "batch_size": 8, "checkpoint_every": 2, "log_every": 1} | loop
    return Experiment(
        algorithm=algorithm or sft.SftConfig(),
        data=sources.config(path),
        model=SHAPE,
        loop=LoopConfig(**loop),
    )


def run(config, folder, **options):
    lines = []
    train.train(config, folder, name="run", log=lines.append, **options)
    return lines


def outcome(folder):
    """Metrics of every step, as written, and checksums of the final state."""
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return steps, cli.stored_checksums(folder)


@pytest.mark.parametrize("algorithm", [sft.SftConfig, pretrain.PretrainConfig])
def test_a_run_has_the_bits_of_one_in_memory(algorithm, tmp_path, monkeypatch):
    path = sources.folder(tmp_path / "data")
    config = experiment(path, algorithm(), evaluate_every=2, evaluate_rows=8)
    lines = run(config, tmp_path / "runs" / "stored")
    assert (tmp_path / "runs" / caches.CACHE / "tables").is_dir()
    assert any(str(tmp_path / "runs" / caches.CACHE) in line for line in lines)
    monkeypatch.setattr(hh.HhConfig, "prepared", lambda self, log, cache: self.make(log))
    run(config, tmp_path / "memory")
    assert outcome(tmp_path / "runs" / "stored") == outcome(tmp_path / "memory")
    records = [json.loads((p / "config.json").read_text()) for p in
               (tmp_path / "runs" / "stored", tmp_path / "memory")]  # fmt: skip
    for record in records:
        record.pop("places")  # seen from folders of other depths
    assert records[0] == records[1]


def test_reference_columns_are_shared_by_runs_and_restarts(tmp_path, monkeypatch):
    path = sources.folder(tmp_path / "data")
    run(experiment(path), tmp_path / "sft")
    config = experiment(path, dpo.DpoConfig(), steps=2)
    config.policy = str(tmp_path / "sft")
    run(config, tmp_path / "dpo")
    monkeypatch.setattr(annotation, "_parts", None)  # nothing is computed from here on
    run(config, tmp_path / "again")
    assert outcome(tmp_path / "again") == outcome(tmp_path / "dpo")
    run(
        dataclasses.replace(config, loop=dataclasses.replace(config.loop, steps=3)),
        tmp_path / "dpo",
    )
    other = dataclasses.replace(config, algorithm=dpo.DpoConfig(beta=0.5))
    run(other, tmp_path / "sweep")
    monkeypatch.undo()
    monkeypatch.setattr(caches, "default_cache", lambda folder: prepare.Cache(
        folder=epath.Path(tmp_path / "other")))  # fmt: skip
    run(config, tmp_path / "anew")
    assert outcome(tmp_path / "anew") == outcome(tmp_path / "again")


@pytest.mark.slow
def test_the_command_prepares_and_training_finds_it(tmp_path):
    path = sources.folder(tmp_path / "data")
    options = ("--config=experiments/hh_sft.py:micro", f"--config.data.path={path}",
               "--config.data.max_unusable_share=0.5",
               f"--data_cache={tmp_path / 'cache'}")  # fmt: skip
    printed = cli.run("prepare", *options, "--workers=2")
    assert printed == f"prepared: {tmp_path / 'cache'}\n"
    shards = sorted((tmp_path / "cache").rglob("shard-*.rows"))
    assert len(shards) == 2  # demonstrations of both splits
    times = [shard.stat().st_mtime_ns for shard in shards]
    cli.run("train", *options, f"--workdir={tmp_path / 'run'}")
    assert [shard.stat().st_mtime_ns for shard in shards] == times
    cli.run("prepare", *options, "--kinds=pairs,prompts")
    assert len(sorted((tmp_path / "cache").rglob("shard-*.rows"))) == 6

    process = cli.start("prepare", *options, "--kinds=pears")
    assert "--kinds" in process.communicate()[1]
    assert process.returncode == 2
    process = cli.start("prepare", "--config=experiments/lifecycle.py:micro")
    assert "whose rows are made in memory" in process.communicate()[1]
    assert process.returncode == 2


@pytest.mark.slow
def test_a_damaged_shard_ends_a_run_by_name_and_its_cure_works(tmp_path):
    path = sources.folder(tmp_path / "data")
    options = ("--config=experiments/hh_sft.py:micro", f"--config.data.path={path}",
               "--config.data.max_unusable_share=0.5", f"--workdir={tmp_path / 'run'}")  # fmt: skip
    cli.run("prepare", *options)
    shards = sorted((tmp_path / caches.CACHE).rglob("shard-*.rows"), key=lambda p: p.stat().st_size)
    content = shards[-1].read_bytes()
    for place in range(len(content) // 4, len(content), 37):  # a bit in every row
        content = content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :]
    shards[-1].write_bytes(content)
    process = cli.start("train", *options)
    err = process.communicate()[1]
    assert process.returncode == 2
    told = [line for line in err.splitlines() if "shard must hold" in line]
    assert len(told) == 1
    assert str(shards[-1]) in told[0]
    assert "Traceback" not in err
    shards[-1].unlink()
    cli.run("train", *options)


def test_an_unnamed_corpus_is_read_as_one(tmp_path):
    """Both splits of a folder without named files come from one scan."""
    path = sources.folder(tmp_path / "data", eval_rows=1)
    pathlib.Path(path / "held.eval.jsonl").unlink()
    for file in path.iterdir():
        file.rename(file.with_name(file.name.replace(".train", "")))
    config = sources.config(path)
    place = prepare.Cache(folder=epath.Path(tmp_path / "cache"), workers=1)
    stored, memory = config.prepared(lambda line: None, place), config.make(lambda line: None)
    assert len(list((tmp_path / "cache" / "scans").iterdir())) == 1
    for split in ("train", "eval"):
        tables = [corpus.read("pairs", split) for corpus in (stored, memory)]
        assert lazy.is_lazy(tables[0]["tokens"])
        np.testing.assert_array_equal(*(np.asarray(table["tokens"]) for table in tables))


def test_a_run_is_evaluated_and_sampled_from_its_prepared_tables(tmp_path, monkeypatch):
    path = sources.folder(tmp_path / "data")
    config = experiment(path, pretrain.PretrainConfig())
    run(config, tmp_path / "runs" / "stored")
    greedy = transforms.SamplingConfig(max_new_tokens=4, temperature=0.0)

    def read():
        numbers = evaluation.evaluate(tmp_path / "runs" / "stored", rows=8, seed=0)
        answers = evaluation.sample(
            tmp_path / "runs" / "stored", prompt="", config=greedy, count=8, seed=0
        )
        return numbers, answers

    with monkeypatch.context() as patch:
        patch.setattr(hh.HhConfig, "make", None)  # nothing is read in memory
        stored = read()
    (tmp_path / "runs" / caches.CACHE).rename(tmp_path / "elsewhere")
    assert read() == stored
    assert not (tmp_path / "runs" / caches.CACHE).exists()


def test_stages_of_a_lifecycle_share_its_prepared_tables(tmp_path, monkeypatch):
    from alignjax.experiments import common
    from alignjax.lifecycles import lifecycle

    config = common.micro(common.tiny())
    config.data = sources.config(sources.folder(tmp_path / "data"), length=96, prompt_length=48)
    read = []
    monkeypatch.setattr(hh.HhConfig, "make", lambda self, log: read.append(log))
    monkeypatch.setattr(lifecycle.continuing, "claim", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        lifecycle.run(config, tmp_path / "run", print)
    assert not read
    assert (tmp_path / "run" / caches.CACHE / "scans").is_dir()
