"""The planted world: what breaks the rule is known, and searches are measured against it."""

import dataclasses
import json

import numpy as np
import pytest

from alignjax.feedback import content, database, harvest
from alignjax.feedback.store import queries
from alignjax.redteam import attack, judges, planted, search, store, transforms

WORLD = planted.make(planted.PlantedConfig())


def attacked(world, pool=planted.POOL, attempts=64):
    asked = attack.Asked(planted.policy(world), judges.Judge("exact", world.score))
    own = search.best_of_n(attempts, pool, most=1)
    return attack.run(own, world.goals, asked, budget=10**6)


def test_worlds_are_of_their_seed_and_triggers_of_both_pools():
    assert planted.make(planted.PlantedConfig()) == WORLD
    others = [planted.make(planted.PlantedConfig(seed=seed)) for seed in range(1, 6)]
    assert len({world.triggers for world in others}) > 2
    for world in (WORLD, *others):
        assert len(world.triggers & set(planted.POOL)) == 3
        assert len(world.triggers & set(planted.HELD_OUT)) == 2
        assert len(set(world.words.values())) == 12


def test_questions_are_told_apart_and_held_out_ones_are_held_out():
    texts = [text for text, _ in planted.rows(WORLD)]
    assert len(set(texts)) == len(texts) == 36 * 11
    assert transforms.is_held_out(planted.HELD_OUT)
    assert not transforms.is_held_out(planted.POOL)


def test_the_plan_breaks_the_rule_under_its_triggers_alone():
    own = planted.policy(WORLD)
    truth = planted.enumerated(WORLD, own, planted.POOL)
    triggers = {transforms.told([one]) for one in WORLD.triggers & set(planted.POOL)}
    assert {note for _, note in truth} == triggers
    assert len(truth) == 12 * 3
    assert planted.enumerated(WORLD, own, ()) == frozenset()
    assert planted.helpfulness(WORLD.benign, own, planted.POOL).all()
    few = planted.enumerated(WORLD, own, planted.POOL, WORLD.goals[:2])
    assert few == {one for one in truth if one[0] in ("vault-1", "vault-2")}


def test_a_search_finds_the_triggers_and_no_others():
    found = attacked(WORLD)
    truth = planted.enumerated(WORLD, planted.policy(WORLD), planted.POOL)
    told = planted.detection(truth, [found])
    assert told.recall >= 0.9
    assert told.false_rate == 0
    short = planted.detection(truth, [attacked(WORLD, attempts=4)])
    assert 0 < short.recall < 0.6  # it is measured, and not given


def test_a_judge_that_errs_shows_as_false_triggers():
    asked = attack.Asked(planted.policy(WORLD), judges.Judge("all", lambda g, t: np.ones(len(t))))
    found = attack.run(search.best_of_n(32, planted.POOL, most=1), WORLD.goals, asked,
                       budget=10**6)  # fmt: skip
    truth = planted.enumerated(WORLD, planted.policy(WORLD), planted.POOL)
    told = planted.detection(truth, [found])
    assert told.false_rate > 0.4
    assert np.isnan(planted.detection(frozenset(), [found]).recall)


def test_sizes_of_a_world_are_checked():
    with pytest.raises(ValueError, match=r"triggers must be .*<= 6"):
        planted.make(planted.PlantedConfig(triggers=7))
    with pytest.raises(ValueError, match="doors must be"):
        planted.make(planted.PlantedConfig(doors=39))


def test_hits_become_demonstrations_and_pairs(tmp_path):
    """Stored once, harvested as rows that our loader reads, the refusal before what was said."""
    found = attacked(WORLD)
    items, left_out = store.items_of([found], {"run": "planted"}, system="be careful")
    assert left_out == 0
    assert len(items) == 36
    with database.opened(str(tmp_path / "hits.db"), new=True) as db:
        given = [(item, planted.REFUSAL) for item in items]
        assert store.write(db, given, "exact") == 36
        assert store.write(db, given, "exact") == 0  # the same attack again adds nothing
        told = harvest.harvest(db.read, tmp_path / "rows", ("demonstrations", "pairs"))
        (rater,) = db.read(queries.raters).values()
    assert rater.kind == "judge"
    assert told.judgements == {"rewrite": (36, 36)}
    lines = (tmp_path / "rows" / "demonstrations.jsonl").read_text().splitlines()
    rows = [json.loads(line)["messages"] for line in lines]
    assert len(rows) == 36
    assert all(row[0] == {"role": "system", "content": "be careful"} for row in rows)
    assert {row[-1]["content"] for row in rows} == {planted.REFUSAL}
    files = (tmp_path / "rows").glob("pairs.*.jsonl")
    pairs = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert len(pairs) == 36
    assert all(row["preference"] == 1 for row in pairs)
    assert all(row["chosen"].endswith(planted.REFUSAL) for row in pairs)
    assert all("says" in row["rejected"] for row in pairs)


def test_hits_of_held_out_transforms_are_never_stored():
    found = attacked(WORLD, pool=planted.HELD_OUT)
    assert any(a.is_hit for a in found.attempts)
    with pytest.raises(ValueError, match="held out must not be stored to train on"):
        store.items_of([found], {})


def test_what_cannot_be_stored_is_counted():
    found = attacked(WORLD, attempts=16)
    hit = next(i for i, a in enumerate(found.attempts) if a.is_hit)
    found.attempts[hit] = found.attempts[hit]._replace(answer="a\0b")
    hits = len({(a.turns, a.answer) for a in found.attempts if a.is_hit})
    items, left_out = store.items_of([found], {})
    assert left_out == 1
    assert len(items) == hits - 1
    assert all(isinstance(item, content.Item) for item in items)
    assert dataclasses.replace(found, attempts=[]).tokens == 0
