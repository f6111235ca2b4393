"""FLAME in FactWorld: the check of texts is the world's own, pairs by source, what is refused."""

import json

import numpy as np
import pytest

from alignjax.data import retrieval
from alignjax.experiments import flame
from alignjax.experiments.common import factual
from alignjax.lifecycles import lifecycle
from alignjax.rewards import facts as checks
from alignjax.worlds import corpus as review_corpus
from alignjax.worlds import facts

WORLD = facts.FactConfig(
    entities=12, known=8, relations=3, values=4, chats=1, coverage=0.7, held_out=0.25
)


def rows(count=3000):
    """Answers of random tokens, of which many are lists of claims."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(facts.EOS, WORLD.first_entity, (count, WORLD.length))
    tokens[:, 0] = WORLD.first_entity + rng.integers(0, 12, count)
    tokens[:, 1] = rng.choice([4, 5, 6, facts.TELL, WORLD.first_chat], count)
    for place in range(2, WORLD.length - 1, 2):
        listed = rng.random(count) < 0.7
        tokens[listed, place] = facts.FIRST + rng.integers(0, 3, listed.sum())
        tokens[listed, place + 1] = WORLD.first_value + rng.integers(0, 4, listed.sum())
    lengths = rng.integers(3, WORLD.length + 1, count)
    ends = rng.random(count) < 0.9
    tokens[ends, lengths[ends] - 1] = facts.EOS
    return tokens, lengths


def texts(tokens, lengths):
    pairs = list(zip(tokens, lengths, strict=True))
    return (
        [facts.text(WORLD, row[:2]) for row, _ in pairs],
        [facts.text(WORLD, row[2:n]) for row, n in pairs],
    )


def test_the_check_of_texts_is_the_worlds_own_verifier():
    tokens, lengths = rows()
    want = facts.verify(WORLD, tokens, lengths)
    found = checks.check(factual.checker(WORLD), *texts(tokens, lengths)).claims
    assert (want.facts > 0).sum() > 100
    assert want.failed.sum() > 100
    assert 0 < want.supported.sum() < want.facts.sum()
    for name, column in want._asdict().items():
        np.testing.assert_array_equal(getattr(found, name), column, err_msg=name)


def test_facts_found_by_bm25_are_verified_alike():
    pytest.importorskip("bm25s", reason="retrieval needs alignjax[eval]")
    truth, tokens = facts.facts(WORLD), rows(300)
    own = factual.checker(WORLD)
    known = [f"e{e} r{r} v{truth[e, r]}" for e in range(12) for r in range(3)]
    found = checks.check(own._replace(retrieve=retrieval.index(known)), *texts(*tokens)).claims
    want = facts.verify(WORLD, *tokens)
    np.testing.assert_array_equal(found.supported, want.supported)


def test_a_noisy_check_errs_as_often_as_said():
    claims = [f"e{e} r{r} v{v}" for e in range(12) for r in range(3) for v in range(4)]
    exact, noisy = factual.checker(WORLD), factual.checker(WORLD, 0.2)
    found = exact.retrieve(claims)
    wrong = (exact.verify(claims, found) > 0) != (noisy.verify(claims, found) > 0)
    assert 0.05 < wrong.mean() < 0.4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"draws": 1}, "draws must be"),
        ({"penalty": -1.0}, "penalty must be"),
        ({"fact_weight": 0.0}, "fact_weight must be"),
        ({"verifier_noise": 0.5}, "verifier_noise must be"),
        ({"data.chats": 0, "data.chat_share": 0.0}, "data.chats and data.held_out must be above 0"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    config = flame.get_config()
    for name, value in changes.items():
        owner = config.data if name.startswith("data.") else config
        setattr(owner, name.rpartition(".")[2], value)
    with pytest.raises(ValueError, match=message):
        config.validate()


@pytest.mark.slow
def test_every_arm_learns_from_its_own_pairs(tmp_path):
    config = flame.get_config("micro")
    assert lifecycle.run(config, tmp_path, print) == []
    pairs = {
        arm: review_corpus.read_pairs(str(tmp_path / "labels" / f"{arm}.npz"), "train")
        for arm in factual.DPO
    }
    both, single = pairs[factual.FLAME], pairs[factual.HELPFUL]
    assert set(both["source"]) == {0, 1}
    np.testing.assert_array_equal(both["weight"], np.where(both["source"] == 1, 3.0, 1.0))
    np.testing.assert_array_equal(both["tokens"][both["source"] == 0], single["tokens"])
    own = both["tokens"][both["source"] == 1]
    np.testing.assert_array_equal(own, pairs[factual.FACTS]["tokens"])
    # The exact verifier agrees with every order, within the tolerance of helpfulness.
    lengths = (own != facts.PAD).sum(axis=-1)
    sides = [facts.verify(config.data, own[:, i], lengths[:, i]) for i in (0, 1)]
    better, worse = (checks.utilities(checks.Claims(*side)) for side in sides)
    assert len(better) > 5
    assert (better > worse).all()
    told = [factual.helpfulness(config.data, own[:, i], lengths[:, i]) for i in (0, 1)]
    assert (np.abs(told[0] - told[1]) <= config.tolerance).all()
    # Injected answers are true, and no pair is about an entity that is held out.
    injected = pairs[factual.INJECTED]["tokens"]
    ends = (injected[:, 0] != facts.PAD).sum(axis=-1)
    true = facts.verify(config.data, injected[:, 0], ends)
    np.testing.assert_array_equal(true.supported, true.facts)
    asked = set(both["tokens"][:, 0, 0] - config.data.first_entity)
    cut = config.data.known - config.data.held_out_of(config.data.known)
    assert not asked & set(range(cut, config.data.known))
    results = json.loads((tmp_path / "results.json").read_text())
    assert [row["stage"] for row in results["rows"]] == [*factual.ARMS, "classifier"]
    lines = []
    lifecycle.run(config, tmp_path, lines.append)
    assert sum("finished before, skipped" in line for line in lines) == 8
