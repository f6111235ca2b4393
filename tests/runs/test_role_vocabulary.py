"""Data of bare numbers, without a tokenizer: networks of another vocabulary are refused."""

import dataclasses

import jax
import numpy as np
import pytest

from alignjax.algorithms import dpo
from alignjax.data import corpus
from alignjax.parallel import mesh as meshes
from alignjax.runs import train
from tests.runs import starts


@dataclasses.dataclass(kw_only=True)
class NumbersConfig(corpus.DataConfig):
    """Random token ids."""

    vocab: int = 16

    def make(self, log):
        def table(kind, split):
            shape = (16, 2, 8) if kind == "pairs" else (16, 8)
            tokens = np.random.default_rng(split == "eval").integers(2, self.vocab, shape)
            slot = np.broadcast_to(np.arange(8, dtype=np.int32), shape)
            return {
                "tokens": tokens.astype(np.int32),
                "loss_mask": slot >= 3,
                "segments": np.ones(shape, np.int32),
                "positions": slot.copy(),
            }

        return corpus.Corpus(
            vocab_size=self.vocab,
            pad=0,
            eos=1,
            length=8,
            prompt_length=3,
            kinds=("demonstrations", "pairs"),
            table=table,
            text=str,
            fingerprints={},
        )


def test_a_network_of_another_vocabulary_is_refused(tmp_path, monkeypatch):
    whole = meshes.make_mesh
    monkeypatch.setattr(meshes, "make_mesh", lambda config: whole(config, jax.devices()[:1]))
    for name, vocab in (("own", 16), ("other", 20)):
        start = starts.make(starts.PullConfig(), data=NumbersConfig(vocab=vocab))
        train.train(start, tmp_path / name, name=name, log=starts.quiet)
    own, other = str(tmp_path / "own"), str(tmp_path / "other")
    config = starts.make(dpo.DpoConfig(), data=NumbersConfig(), policy=own, reference=other)
    with pytest.raises(ValueError, match="the vocabulary of the reference must have the 16") as one:
        train.train(config, tmp_path / "run", name="run", log=starts.quiet)
    assert "got 20 in" in str(one.value)
    assert not (tmp_path / "run").exists()
