"""Attacks as steps: what they ask, what they make of replies, and what cannot be read."""

import math

import numpy as np
import pytest

from alignjax.redteam import attack, catalogue, dialogue, evolution, goals, search, transforms
from alignjax.text import chat
from tests.redteam import fakes

GOAL = fakes.GOALS[0]
PLAIN = transforms.pool("capitals(rate=1.0),spaced,leetspeak")
HIT, MISS, UNREAD = search.Reply("yes", 1.0), search.Reply("no", 0.0), search.Reply("?", math.nan)


def question(text):
    return search.Reply(f'Sure. {{"question": "{text}"}}')


def test_best_of_n_asks_n_times_and_never_stops_at_a_hit():
    own = search.best_of_n(10, PLAIN, width=4)
    state, sizes = own.start(GOAL, 0), []
    replies = []
    while True:
        state, asks = own.step(state, replies)
        if not asks:
            break
        sizes.append(len(asks))
        replies = [HIT] * len(asks)
    assert sizes == [4, 4, 2]


def test_steps_are_pure():
    """The same state and replies give the same asks, whatever was asked between."""
    for name, make in catalogue.ATTACKS.items():
        own = make(catalogue.Choice(8, PLAIN, [("a", "b"), ("c", "d")]))
        state = own.start(GOAL, 3)
        first = own.step(state, [])
        own.step(own.start(fakes.GOALS[1], 4), [])
        assert own.step(state, []) == first, name
        other = own.step(own.start(fakes.GOALS[1], 3), [])
        assert other[1] != first[1], name


def test_a_budget_is_of_what_could_be_spent():
    """Three words of a question, and four of an answer where one comes: seven are feared, four
    spent."""
    asked = fakes.asked(lambda text: "no", fakes.contains("yes"))
    own = search.best_of_n(50, (), width=8)
    found = attack.run(own, fakes.GOALS[:2], asked, budget=20)
    assert all(a.tokens == 4 for a in found.attempts)  # three read, one written
    for goal in found.goals:
        spent = [a.spent for a in found.attempts if a.goal == goal]
        assert spent == [4, 8, 12, 16]  # a fifth could cost 7, and 16 + 7 > 20
    assert found.tokens == 32
    assert not attack.run(own, fakes.GOALS[:2], asked, budget=6).attempts


def test_what_cannot_be_read_is_counted_and_is_no_score():
    """As a 1 it would be a success, as a 0 a failure; it is neither."""
    asked = fakes.asked(lambda text: "maybe", fakes.UNREAD)
    found = attack.run(search.best_of_n(6, ()), fakes.GOALS, asked, budget=1000)
    assert found.counted["unread"] == 24
    assert not any(a.is_hit for a in found.attempts)
    assert all(math.isnan(a.score) for a in found.attempts)
    shown = dialogue.Try("a question", "an answer", math.nan).told
    assert "unknown" in shown
    assert "1" not in shown
    assert "0" not in shown


def test_what_may_not_be_sent_is_counted():
    own = search.best_of_n(3, transforms.pool("spaced"), most=1)
    long = goals.Goal("long", "word " * 30)
    asked = attack.Asked(fakes.of_text(lambda text: "no", longest=100), fakes.contains("yes"))
    found = attack.run(own, [long], asked, budget=10_000)
    sent = sum(a.note == "plain" for a in found.attempts)
    assert found.counted["not sent"] == 3 - sent > 0


def test_many_shot_is_text_of_the_user_alone_and_doubles():
    shots = [(f"q{i}", f"a{i}") for i in range(5)]
    own = search.many_shot(shots, most=4)
    state, counts, replies = own.start(GOAL, 0), [], []
    while True:
        state, asks = own.step(state, replies)
        if not asks:
            break
        (ask,) = asks
        assert [turn.role for turn in ask.turns] == [chat.HUMAN]
        counts.append(ask.turns[0].text.count("Assistant: a"))
        replies = [MISS]
    assert counts == [1, 2, 4]
    assert own.step(own.start(GOAL, 0), [HIT])[1] == []


def test_pair_improves_each_stream_by_its_own_answers():
    own = dialogue.pair(streams=2, depth=2)
    state, asks = own.step(own.start(GOAL, 0), [])
    assert [ask.to for ask in asks] == [search.ATTACKER] * 2
    state, asks = own.step(state, [question("one"), question("two")])
    assert [(ask.to, ask.turns[-1].text) for ask in asks] == [
        (search.TARGET, "one"), (search.TARGET, "two"),
    ]  # fmt: skip
    state, asks = own.step(state, [search.Reply("no to one", 0.1), UNREAD])
    texts = [ask.turns[-1].text for ask in asks]
    assert "no to one" in texts[0]
    assert "0.10" in texts[0]
    assert "no to one" not in texts[1]
    assert "Success: unknown" in texts[1]
    state, asks = own.step(state, [search.Reply("I write what I like"), question("three")])
    assert [ask.turns[-1].text for ask in asks] == ["three"]
    assert own.counts(state)["attacker unread"] == 1
    assert own.step(state, [MISS])[1] == []  # two depths
    assert own.step(state, [HIT])[1] == []


def test_tap_drops_what_is_off_the_topic_and_keeps_the_best():
    own = dialogue.tap(branching=3, width=2, depth=2)
    state, asks = own.step(own.start(GOAL, 0), [])
    assert len(asks) == 3
    state, asks = own.step(state, [question(text) for text in "abc"])
    assert [ask.to for ask in asks] == [search.TOPIC] * 3
    topics = [search.Reply(score=score) for score in (0.9, math.nan, 0.6)]
    state, asks = own.step(state, topics)
    assert [ask.turns[-1].text for ask in asks] == ["a", "c"]
    state, asks = own.step(state, [UNREAD, search.Reply("so", 0.2)])
    assert [leaf[-1].question for leaf in state.leaves] == ["c"]  # the unread one ranks nowhere
    assert len(asks) == 3


def test_where_nothing_survives_the_leaves_stay():
    own = dialogue.tap(branching=2, width=2, depth=3)
    state, _ = own.step(own.start(GOAL, 0), [])
    state, _ = own.step(state, [question("a"), question("b")])
    state, asks = own.step(state, [search.Reply(score=0.1)] * 2)
    assert [ask.to for ask in asks] == [search.ATTACKER] * 2
    assert (state.leaves, state.depth, state.bare) == (((),), 1, 1)
    state, _ = own.step(state, [question("c"), question("d")])
    state, asks = own.step(state, [search.Reply(score=0.9)] * 2)
    state, asks = own.step(state, [UNREAD, UNREAD])  # nothing could be read
    assert state.leaves == ((),)
    assert dialogue.prune([0.1, math.nan], 2, 0.5) == []
    assert dialogue.prune([0.6, math.nan, 0.9, 0.6], 2, 0.5) == [2, 0]


def test_crescendo_takes_refusals_back():
    own = dialogue.crescendo(rounds=6, backtracks=1)
    state, _ = own.step(own.start(GOAL, 0), [])
    state, (ask,) = own.step(state, [question("first")])
    state, _ = own.step(state, [search.Reply("Gladly, it is so.", 0.1)])
    state, (ask,) = own.step(state, [question("second")])
    assert [turn.text for turn in ask.turns] == ["first", "Gladly, it is so.", "second"]
    state, (ask,) = own.step(state, [search.Reply("I'm sorry, I can't.", 0.0)])
    assert "second" in ask.turns[-1].text  # the attacker sees what was refused
    state, (ask,) = own.step(state, [question("third")])
    assert [turn.text for turn in ask.turns] == ["first", "Gladly, it is so.", "third"]
    state, asks = own.step(state, [search.Reply("I'm sorry, I can't.", 0.0)])
    assert asks == []  # two refusals


def test_evolution_composes_transforms_that_random_draws_do_not_find():
    """Only three in this order break the rule; each right prefix of them scores higher."""
    wanted = ["leetspeak", "capitals", "spaced"]

    def score_of(note: str) -> float:
        names = [word.partition("(")[0] for word in note.split("+")]
        right = sum(1 for i in range(3) if names[: i + 1] == wanted[: i + 1])
        return 1.0 if names == wanted else 0.15 * right

    own = evolution.evolution(PLAIN, size=8, generations=40, elite=4, longest=3)
    state, replies, asked = own.start(GOAL, 1), [], 0
    while True:
        state, asks = own.step(state, replies)
        if not asks:
            break
        asked += len(asks)
        replies = [search.Reply("x", score_of(ask.note)) for ask in asks]
    assert state.elite[0][1] == 1.0
    assert asked < 320
    state, _ = own.step(own.start(GOAL, 1), [])
    state, _ = own.step(state, [UNREAD] * 8)
    assert state.elite == ()  # none of them is a parent


@pytest.mark.parametrize("name", ["pair", "tap", "crescendo"])
def test_an_attacker_that_writes_json_breaks_what_breaks(name):
    """Every second question contains the word that the target answers to."""
    told = iter(range(1000))

    def attacker(asked):
        return [f'{{"question": "number {GOAL.name} {"magic" if next(told) % 2 else "plain"}"}}'
                for _ in asked]  # fmt: skip

    asked = fakes.asked(
        lambda text: "yes" if "magic" in text else "well",
        fakes.contains("yes"), attacker=attacker, topic=lambda goals, texts: [1.0] * len(texts),
    )  # fmt: skip
    own = catalogue.ATTACKS[name](catalogue.Choice())
    found = attack.run(own, fakes.GOALS, asked, budget=1000)
    assert {a.goal for a in found.attempts if a.is_hit} == set(found.goals)
    assert found.counted["attacker asked"] > 0
    with pytest.raises(ValueError, match="must have an attacker"):
        attack.run(own, fakes.GOALS, fakes.asked(str, fakes.UNREAD), budget=1000)


def test_random_numbers_are_of_the_goal_and_the_place_alone():
    own = search.best_of_n(6, transforms.TRAIN)
    asked = fakes.asked(lambda text: "no", fakes.contains("yes"))
    all_goals = attack.run(own, fakes.GOALS, asked, budget=10_000, seed=5)
    alone = attack.run(own, fakes.GOALS[2:3], asked, budget=10_000, seed=5)
    texts = [a.turns[0].text for a in all_goals.attempts if a.goal == fakes.GOALS[2].name]
    assert texts == [a.turns[0].text for a in alone.attempts]
    assert len(set(texts)) > 2
    assert np.isfinite([a.score for a in alone.attempts]).all()
