"""Mixtures of corpora: shares by weight in a run, one tokenizer, every held-out row once."""

import dataclasses
import json

import numpy as np
import pytest
from etils import epath

from alignjax.algorithms import pretrain
from alignjax.data import mixture, pipeline, prepare
from alignjax.models.config import TransformerConfig
from alignjax.runs import records, train
from alignjax.runs.experiment import Experiment
from alignjax.training.loop import LoopConfig
from tests.commands import cli
from tests.data import sources
from tests.data.conftest import SENTENCES


@pytest.fixture
def config(tok, tmp_path):
    tok.save(tmp_path / "tokenizer.model")
    parts = tuple(
        sources.config(
            sources.folder(tmp_path / f"data{seed}", seed, (40 + 20 * seed,), 10),
            tokenizer=str(tmp_path / "tokenizer.model"),
        )
        for seed in (0, 1)
    )
    return mixture.MixtureConfig(parts=parts, weights=(3.0, 1.0))


def test_parts_are_taken_by_weight_and_held_out_rows_once(config, tmp_path):
    memory = config.make(lambda line: None)
    stored = config.prepared(
        lambda line: None, prepare.Cache(folder=epath.Path(tmp_path / "cache"), workers=1)
    )
    assert memory.kinds == ("documents", "demonstrations")
    assert stored.fingerprints == memory.fingerprints
    for kind in memory.kinds:
        sizes = [len(part.make(print).read(kind, "train")["tokens"]) for part in config.parts]
        assert memory.shares(kind) == list(zip(sizes, (3.0, 1.0), strict=True))
        found = []
        for corpus in (memory, stored):
            batches = pipeline.Batches(
                corpus.read(kind, "train"), batch_size=8, seed=0, mixture=corpus.shares(kind)
            )
            found.append([batches.batch(step)["tokens"] for step in range(5)])
            rows = np.concatenate([batches.indices(step) for step in range(5)])
            assert (rows < sizes[0]).sum() == 30
        np.testing.assert_array_equal(*found)
        held = [part.make(print).read(kind, "eval")["tokens"] for part in config.parts]
        np.testing.assert_array_equal(
            np.asarray(stored.read(kind, "eval")["tokens"]), np.concatenate(held)
        )


def test_a_run_reads_a_mixture_and_its_record_comes_back(config, tmp_path):
    own = Experiment(
        algorithm=pretrain.PretrainConfig(), data=config,
        model=TransformerConfig(layers=1, width=16, heads=2, kv_heads=1, head_dim=8, ff=32),
        loop=LoopConfig(steps=3, batch_size=8, evaluate_every=3, evaluate_rows=8, log_every=1),
    )  # fmt: skip
    train.train(own, tmp_path / "run", name="run", log=lambda line: None)
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert "eval/nats a token" in lines[-1]
    values = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert records.decode(values, Experiment, pytest.fail).data == config


def test_parts_of_several_tokenizers_or_lengths_are_refused(config):
    config.parts[1].length = 40
    with pytest.raises(ValueError, match="another length in part 1"):
        config.make(lambda line: None)
    config.parts[1].length, config.parts[1].tokenizer = 48, ""
    with pytest.raises(ValueError, match=r"another .*tokenizer in part 1"):
        config.make(lambda line: None)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, -1.0), (0.0, 1.0), (1.0, 1e-9)])
def test_weights_are_checked(config, weights):
    config.weights = weights
    with pytest.raises(ValueError, match="weight"):
        config.validate()


@pytest.fixture
def folders(tmp_path):
    """Two corpora of text files."""
    for number, name in enumerate(("one", "other")):
        (tmp_path / name).mkdir()
        for split, count in (("train", 300 + 200 * number), ("test", 60)):
            texts = [f"{SENTENCES[(n + number) % 5]} {split} {n}" for n in range(count)]
            rows = [json.dumps({"text": text}) for text in texts]
            (tmp_path / name / f"x.{split}.jsonl").write_text("\n".join(rows) + "\n")
    return str(tmp_path / "one"), str(tmp_path / "other")


def corpora_config(paths, **options):
    shared = {"vocab_size": 330, "length": 160, "prompt_length": 80}
    return mixture.CorporaConfig(paths=paths, weights=(3.0, 1.0), **shared | options)


def quiet(line):
    pass


@pytest.mark.parametrize("document_masks", [True, False])
def test_corpora_share_a_tokenizer_that_is_trained_on_all(document_masks, folders, tmp_path):
    config = corpora_config(folders, document_masks=document_masks)
    memory = config.make(quiet)
    stored = config.prepared(quiet, prepare.Cache(folder=epath.Path(tmp_path / "c"), workers=1))
    assert stored.fingerprints == memory.fingerprints
    assert memory.kinds == stored.kinds == ("documents",)
    for split in ("train", "eval"):
        one, other = (corpus.read("documents", split) for corpus in (memory, stored))
        for name, column in one.items():
            np.testing.assert_array_equal(np.asarray(column), np.asarray(other[name]))
    assert stored.shares("documents") == memory.shares("documents")
    assert [weight for _, weight in memory.shares("documents")] == [3.0, 1.0]
    alone = dataclasses.replace(config, paths=folders[:1], weights=(1.0,)).make(quiet)
    assert alone.fingerprints["tokenizer"] != memory.fingerprints["tokenizer"]


def test_without_document_masks_a_row_is_one_document(folders):
    masked, whole = (
        corpora_config(folders, document_masks=on).make(quiet).read("documents", "train")
        for on in (True, False)
    )
    masked, whole = ({n: np.asarray(x) for n, x in t.items()} for t in (masked, whole))
    np.testing.assert_array_equal(masked["tokens"], whole["tokens"])
    assert masked["segments"].max() > 1
    np.testing.assert_array_equal(whole["segments"], masked["segments"] > 0)
    counts = np.where(whole["segments"] > 0, np.arange(160), 0)
    np.testing.assert_array_equal(whole["positions"], counts)
    np.testing.assert_array_equal(whole["loss_mask"], counts > 0)


def test_corpora_without_weights_or_packing_are_refused(folders):
    with pytest.raises(ValueError, match=r"data\.weights a number for each; got 2 and 1"):
        dataclasses.replace(corpora_config(folders), weights=(1.0,)).make(quiet)
    with pytest.raises(ValueError, match=r"got 2 and 2, with path='x'"):
        dataclasses.replace(corpora_config(folders), path="x").make(quiet)
    with pytest.raises(ValueError, match=r"document_masks must be on where rows hold one document"):
        corpora_config(folders, document_masks=False, pack=False).make(quiet)


@pytest.mark.slow
def test_pretraining_on_two_folders_from_the_command_line(folders, tmp_path):
    arguments = (
        "--config=experiments/pretrain_text.py:micro", f"--config.data.paths={','.join(folders)}",
        "--config.data.weights=3,1", "--config.data.vocab_size=330",
        "--config.data.document_masks=false", f"--workdir={tmp_path}/run",
    )  # fmt: skip
    cli.run("train", *arguments)
    rows = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = rows[-1]
    np.testing.assert_allclose(
        last["eval/perplexity"], np.exp(last["eval/nats a token"]), rtol=1e-6
    )
    assert last["nll"] < rows[0]["nll"]
