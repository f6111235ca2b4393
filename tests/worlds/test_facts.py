"""FactWorld: which facts are told how often, and a verifier that keeps four outcomes apart."""

import numpy as np
import pytest

from alignjax.data import tables
from alignjax.evals import factuality
from alignjax.worlds import fact_corpus, facts

CONFIG = facts.FactConfig(
    seed=2, entities=20, known=12, relations=3, values=8, mentions=5, demonstrations=600,
    prompts=900, eval_rows=50, unknown_share=0.25,
)  # fmt: skip
TRUTH = facts.facts(CONFIG)
MADE = fact_corpus.make_corpus(CONFIG)


def tell(entity, *words):
    """A row of all that is told of an entity: pairs (relation, value), "f", "idk", "eos"."""
    ids = [CONFIG.first_entity + entity, facts.TELL]
    names = {"f": CONFIG.first_filler, "idk": facts.IDK, "eos": facts.EOS}
    for word in words:
        if isinstance(word, tuple):
            ids += [facts.FIRST + word[0], CONFIG.first_value + word[1]]
        else:
            ids.append(names[word])
    return ids


def judged(*rows):
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    found = facts.verify(CONFIG, tokens, np.array([len(row) for row in rows]))
    return list(zip(*(x.tolist() for x in found), strict=True))


def test_the_verifier_keeps_outcomes_apart():
    right = [int(v) for v in TRUTH[5]]
    wrong = (right[1] + 1) % 8
    assert judged(
        tell(5, (0, right[0]), "f", (1, right[1]), "eos"),
        tell(5, (0, right[0]), (1, wrong), "eos"),
        tell(5, "idk", "eos"),
        tell(5, "f", "eos"),
        tell(5, "eos"),
        tell(5, (0, right[0])),
        tell(5, "idk", (0, right[0]), "eos"),
        [CONFIG.first_entity + 5, facts.FIRST + 1, CONFIG.first_value + right[1], facts.EOS],
        [CONFIG.first_entity + 5, facts.FIRST + 1, CONFIG.first_value + wrong, facts.EOS],
        [CONFIG.first_entity + 5, facts.FIRST + 1, facts.IDK, facts.EOS],
        [CONFIG.first_entity + 5, facts.FIRST + 1, CONFIG.first_filler, facts.EOS],
    ) == [
        (2, 2, False, False),
        (1, 2, False, False),
        (0, 0, True, False),
        (0, 0, False, False),
        (0, 0, False, False),
        (0, 0, False, True),
        (0, 0, False, True),
        (1, 1, False, False),
        (0, 1, False, False),
        (0, 0, True, False),
        (0, 0, False, True),
    ]


def test_saying_a_fact_twice_is_one_fact():
    right = int(TRUTH[3, 0])
    other = (right + 1) % 8
    twice = tell(3, (0, right), (0, right), "eos")
    first_wrong = tell(3, (0, other), (0, right), "eos")
    assert judged(twice, first_wrong) == [
        (1, 1, False, False),
        (0, 1, False, False),
    ]


@pytest.mark.parametrize("kind", facts.KINDS)
@pytest.mark.parametrize("split", ["train", "eval"])
def test_tables_keep_the_contract_and_their_answers_are_true(kind, split):
    table = MADE.read(kind, split)
    if split == "eval":
        assert tables.count(table) == 50
    if kind == "prompts":
        return
    lengths = table["segments"].sum(axis=1)
    found = facts.verify(CONFIG, table["tokens"], lengths)
    np.testing.assert_array_equal(found.supported, found.facts)
    assert (found.facts > 0).all()
    np.testing.assert_array_equal(MADE.gold(table["tokens"], lengths), 1.0)


def test_documents_tell_every_known_fact_equally_often_and_no_other():
    table = MADE.read("documents", "train")
    heard = np.zeros((20, 3), int)
    for row in table["tokens"]:
        entity = row[0] - CONFIG.first_entity
        asked = range(3) if row[1] == facts.TELL else [row[1] - facts.FIRST]
        heard[entity, list(asked)] += 1
    assert (heard[:12] == 5).all()
    assert (heard[12:] == 0).all()


def test_shares_of_unknown_entities():
    demonstrations = MADE.read("demonstrations", "train")["tokens"]
    prompts = MADE.read("prompts", "train")["prompts"]
    for rows, share in ((demonstrations, 0.25), (prompts, 8 / 20)):
        unknown = rows[:, 0] - CONFIG.first_entity >= 12
        se = (share * (1 - share) / len(rows)) ** 0.5
        assert unknown.mean() == pytest.approx(share, abs=3.5 * se)
    tasks = MADE.tasks("train")
    assert [t["known"] for t in tasks] == (prompts[:, 0] - CONFIG.first_entity < 12).tolist()
    assert {t["relation"] for t in tasks} == {-1, 0, 1, 2}


def test_what_can_be_known():
    entity = np.arange(20)
    chances = facts.known_chance(CONFIG, entity)
    np.testing.assert_array_equal(chances, np.where(entity < 12, 1.0, 1 / 8))
    # The best answers the known ones alone, at any penalty above 1/7.
    assert factuality.best_utility(chances, 1.0) == pytest.approx(12 / 20)
    guess = factuality.abstention_regret(chances, np.ones(20, bool), 1.0)
    assert guess == pytest.approx(8 / 20 * (1 - 2 / 8))
    np.testing.assert_allclose(facts.helpfulness(np.arange(4)), [0, 0.5, 0.75, 0.875])


def test_text_and_sizes():
    assert facts.text(CONFIG, np.array(tell(7, (2, 6), "f", "eos"))) == "e7 tell r2 v6 f0 <eos>"
    assert facts.text(CONFIG, np.array([facts.IDK, facts.PAD])) == "idk <pad>"
    assert facts.FactConfig().vocab_size == 4 + 4 + 4 + 64 + 512
    assert facts.FactConfig().length == 15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"known": 0}, "data.known must be"),
        ({"known": 600}, "data.known must be"),
        ({"values": 1}, "data.values must be"),
        ({"told_share": 1.5}, "data.told_share must be"),
        ({"known": 512, "unknown_share": 0.1}, "data.unknown_share must be 0"),
    ],
)
def test_impossible_worlds_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        fact_corpus.make_corpus(facts.FactConfig(**changes))
