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


# --- coverage, chats, silence and held-out entities -----------------------------------------
WIDE = facts.FactConfig(
    seed=1, entities=40, known=30, relations=3, values=8, mentions=4, demonstrations=2000,
    prompts=2000, eval_rows=400, unknown_share=0.2, coverage=0.5, chats=2, chat_share=0.3,
    idk_share=0.25, held_out=0.2, labels=1000, label_noise=0.1,
)  # fmt: skip
WIDER = fact_corpus.make_corpus(WIDE)


def test_documents_tell_covered_facts_equally_often_and_no_other():
    told = facts.covered(WIDE)
    assert told[:30, 0].all()
    assert not told[30:].any()
    assert told[:30, 1:].mean() == pytest.approx(0.5, abs=4 * (0.25 / 60) ** 0.5)
    heard = np.zeros((40, 3), int)
    rows = WIDER.read("documents", "train")["tokens"]
    chat, silent = rows[:, 1] >= WIDE.first_chat, rows[:, 2] == facts.IDK
    assert chat.mean() == pytest.approx(0.3, abs=0.01)
    assert silent[~chat].mean() == pytest.approx(0.25, abs=0.01)
    for row in rows[~chat & ~silent]:
        entity, asked = row[0] - WIDE.first_entity, row[1] - facts.FIRST
        told_here = row[2:] - facts.FIRST if row[1] == facts.TELL else np.array([asked])
        heard[entity, told_here[(told_here >= 0) & (told_here < 3)]] += 1
    np.testing.assert_array_equal(heard, np.where(told, 4, 0))
    assert set(rows[:, 0] - WIDE.first_entity) == set(range(30))  # unknown ones in none


def test_only_prompts_of_the_eval_split_are_about_entities_held_out():
    held = {24, 25, 26, 27, 28, 29, 38, 39}
    rows = {
        ("demonstrations", "train"): "tokens", ("demonstrations", "eval"): "tokens",
        ("prompts", "train"): "prompts", ("labelled", "train"): "tokens",
        ("prompts", "eval"): "prompts", ("labelled", "eval"): "tokens",
    }  # fmt: skip
    for (kind, split), column in rows.items():
        asked = set(WIDER.read(kind, split)[column][:, 0] - WIDE.first_entity)
        only = split == "eval" and kind != "demonstrations"
        assert asked == (held if only else set(range(40)) - held), (kind, split)


def test_chats_need_no_facts_and_hold_none():
    table = WIDER.read("demonstrations", "train")
    tokens, lengths = table["tokens"], table["segments"].sum(axis=1)
    chat = tokens[:, 1] >= WIDE.first_chat
    assert chat.mean() == pytest.approx(0.3, abs=4 * (0.21 / 2000) ** 0.5)
    found = facts.verify(WIDE, tokens, lengths)
    assert not found.failed.any()
    assert not found.facts[chat].any()
    assert not found.abstained[chat].any()
    silent = found.abstained[~chat].mean()
    assert silent == pytest.approx(0.25, abs=4 * (0.19 / len(chat[~chat])) ** 0.5)
    words = facts.fillers(WIDE, tokens[chat], lengths[chat])
    assert set(words) == {1, 2, 3, 4}
    # A fact in a chat can't be read.
    row = [WIDE.first_entity, WIDE.first_chat, facts.FIRST, WIDE.first_value, facts.EOS]
    assert facts.verify(WIDE, np.array([row]), np.array([5])).failed[0]
    assert facts.text(WIDE, np.array(row)) == "e0 c0 r0 v0 <eos>"


def test_labels_say_whether_facts_are_needed_with_planted_errors():
    for split, noise in (("train", 0.1), ("eval", 0.0)):
        table = WIDER.read("labelled", split)
        needs = table["tokens"][:, 1] < WIDE.first_chat
        wrong = (table["labels"][:, 0] > 0.5) != needs
        assert wrong.mean() == pytest.approx(noise, abs=4 * (0.09 / 1000) ** 0.5 if noise else 0)
    assert WIDER.categories == (facts.LABEL,)


def test_a_world_is_the_same_whatever_its_new_options_default_to():
    named = fact_corpus.fingerprints(CONFIG)["world"]
    assert named == "aecdab8fa8eb91ccce3209045c0b3a8289069d9d5334ce7afe78864bfe8f0b1a"
    assert fact_corpus.fingerprints(WIDE)["world"] != named


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chat_share": 0.1}, "data.chat_share must be 0 without chats"),
        ({"chats": 1, "relations": 1}, "data.relations must be 2 at least with chats"),
        ({"held_out": 1.0}, "data.held_out must leave known entities"),
        ({"held_out": 0.0001}, "data.held_out must leave known entities"),
        ({"coverage": 1.5}, "data.coverage must be"),
        ({"labels": 1}, "data.labels must be"),
    ],
)
def test_impossible_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        fact_corpus.make_corpus(facts.FactConfig(**changes))
