"""Ways to sample x methods on ValueWorld: what is refused, and a small run of every arm."""

import json

import numpy as np
import pytest

from alignjax.experiments import community_alignment
from alignjax.experiments.common import community
from alignjax.lifecycles import lifecycle
from alignjax.worlds import corpus as review_corpus
from alignjax.worlds import values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": 3}, "candidates must be even"),
        ({"candidates": 18}, "candidates must be"),
        ({"comparisons": 9999}, "comparisons must be"),
        ({"temperature": 0.0}, "temperature must"),
        ({"policy.beta": 0.3}, "beta must be a number and that of robust; got 0.3 and 1.0"),
        ({"robust.groups": 3}, "groups must be the world's 2; got 3"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    config = community_alignment.get_config()
    for name, value in changes.items():
        stage, _, field = name.rpartition(".")
        setattr(getattr(config, stage).algorithm if stage else config, field or name, value)
    with pytest.raises(ValueError, match=message):
        config.validate()


@pytest.mark.slow
def test_every_arm_learns_from_its_own_rows(tmp_path):
    config = community_alignment.get_config("micro")
    config.pretrain.loop.steps = 150
    gates = lifecycle.run(config, tmp_path, print)
    assert gates == []
    labels = {
        name: review_corpus.read_pairs(str(tmp_path / "labels" / f"nc-{name}.npz"), "train")
        for name in ("group0", "group1", "pooled", "robust", "maximin")
    }
    pooled = labels["pooled"]
    for number in (0, 1):
        own = labels[f"group{number}"]
        assert set(own["group"]) == {number}
        assert len(own["group"]) == (pooled["group"] == number).sum()
    np.testing.assert_array_equal(labels["robust"]["tokens"], pooled["tokens"])
    maximin = labels["maximin"]["preference"]
    assert maximin.shape == (len(pooled["group"]), 1)
    assert ((maximin > 0) & (maximin < 1)).all()
    assert (pooled["tokens"][:, 0] != pooled["tokens"][:, 1]).any(axis=1).all()
    # Candidates of both kinds wherever the draws have both: more often than of independent ones.
    rows = {
        row["label"]: row["metrics"]
        for row in json.loads((tmp_path / "results.json").read_text())["rows"]
    }
    shown = {s: rows[f"{s}-pooled"]["both kinds shown"]["value"] for s in community.SAMPLINGS}
    assert shown["nc"] > shown["independent"]
    assert rows["nc-group1"]["win, group 1"]["expected"] > 0.5
    # Labelled once: a second run trains nothing and says the same.
    before = (tmp_path / "results.json").read_text()
    lines = []
    lifecycle.run(config, tmp_path, lines.append)
    assert sum("finished before, skipped" in line for line in lines) == 19 - 3
    again = json.loads((tmp_path / "results.json").read_text())
    assert again["rows"] == json.loads(before)["rows"]


def test_labels_of_a_file_take_the_place_of_drawn_ones(tmp_path):
    config = values.ValueConfig(words=3, longest=2, pairs=40, prompts=8, eval_rows=8)
    drawn = values.make_corpus(config).table("pairs", "train")
    review_corpus.write_pairs(tmp_path / "pairs.npz", {k: v[:5] for k, v in drawn.items()}, drawn)
    config.labels = str(tmp_path / "pairs.npz")
    corpus = values.make_corpus(config)
    assert len(corpus.table("pairs", "train")["group"]) == 5
    assert corpus.fingerprints["pairs"]
    config.labels = str(tmp_path / "other.npz")
    with pytest.raises(ValueError, match="must be the file of pairs"):
        values.make_corpus(config).table("pairs", "train")
