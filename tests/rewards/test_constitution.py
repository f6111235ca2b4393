"""Constitutions: files, principles by the seed, critique and revision, and their exact effect."""

import itertools
import pathlib

import numpy as np
import pytest

from alignjax.rewards import constitution, judge

SHIPPED = sorted(pathlib.Path("experiments/constitutions").glob("*.txt"))
THREE = [
    constitution.Principle(name, f"c {name}", f"r {name}", f"better {name}?") for name in "xyz"
]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_files_are_read(path):
    found = constitution.read(str(path))
    assert len(found) == 3
    assert all(own.critique and own.revision and own.choice.endswith("?") for own in found)


def test_a_file_with_comments_and_long_lines(tmp_path):
    file = tmp_path / "own.txt"
    file.write_text(
        "# mine\n[kind]\ncritique: say how\n   it hurts\n\nrevision: rewrite\nchoice: which?\n"
    )
    (own,) = constitution.read(str(file))
    assert own == constitution.Principle("kind", "say how it hurts", "rewrite", "which?")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a principle at least"),
        ("critique: x", r"a line must be \[name\], .*own.txt:1"),
        ("[a]\ncritic: x", "a line must be .*own.txt:2"),
        ("[a]\nchoice: x\nchoice: y", "a line must be .*own.txt:3"),
        ("[a]\n[a]", "its own name; .*own.txt:2"),
        ("[ ]", "its own name"),
        ("[a]\ncritique: x\nrevision: y", "principle 'a' must have .* no choice"),
        ("[a]\ncritique:\nrevision: y\nchoice: z", "no critique"),
    ],
)
def test_bad_files_are_refused_by_line(tmp_path, text, message):
    (tmp_path / "own.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        constitution.read(f"{tmp_path}/own.txt")


def test_a_missing_file_is_refused():
    with pytest.raises(ValueError, match="must be a file of text; got 'nowhere'"):
        constitution.read("nowhere")


def test_principles_are_drawn_by_the_seed_without_repeats():
    found = constitution.principles_of(4, 3000, 2, 7, "p")
    assert (found[:, 0] != found[:, 1]).all()
    counts = np.bincount(found.reshape(-1), minlength=4) / 3000
    np.testing.assert_allclose(counts, 0.5, atol=4 * (0.25 / 3000) ** 0.5)
    np.testing.assert_array_equal(found, constitution.principles_of(4, 3000, 2, 7, "p"))
    assert (found != constitution.principles_of(4, 3000, 2, 8, "p")).any()
    with pytest.raises(ValueError, match="principles of an answer must be"):
        constitution.principles_of(2, 1, 3, 0, "p")


def test_a_model_is_asked_for_critiques_and_revisions_in_turn():
    asked = []

    def write(requests):
        asked.extend(requests)
        return [
            "" if "q1" in text and "Critique:" in text else f"w{len(text)}" for text in requests
        ]

    critic, reviser = constitution.by_model(write)
    found = constitution.revise(
        THREE, ["q0", "q1"], ["a0", "a1"], critic, reviser, rounds=2, seed=1
    )
    assert len(asked) == 2 * 2 * 2
    assert found.kept == 2  # empty revisions leave the answer as it was
    assert found.answers[1] == "a1"
    assert found.answers[0] == found.steps[0][-1].answer != "a0"
    names = [step.principle for step in found.steps[0]]
    assert len(set(names)) == 2
    first, rewrite = asked[0], asked[2]
    assert f"c {names[0]}" in first
    assert "Answer: a0" in first
    assert f"Critique: {found.steps[0][0].critique}" in rewrite
    assert f"r {names[0]}" in rewrite
    later = next(text for text in asked[4:] if "q0" in text)
    assert f"Answer: {found.steps[0][0].answer}" in later  # the second round reads the first's
    with pytest.raises(ValueError, match="a critic must return a text for each of 2"):
        constitution.revise(
            THREE, ["p", "q"], ["a", "b"], lambda *x: ["c"], reviser, rounds=1, seed=0
        )


def test_both_orders_of_a_pair_are_judged_by_one_principle():
    asked = []

    def one(prompts, first, second):
        asked.append(list(prompts))
        return np.array([float(len(x) - len(y)) for x, y in zip(first, second, strict=True)])

    prompts, a, b = [f"p{i}" for i in range(300)], ["xx"] * 300, ["y"] * 300
    own = constitution.judged(judge.Judge("j", judge.both_orders(one)), THREE, seed=3)
    found = own.pair(prompts, a, b)
    assert asked[0] == asked[1]
    counts = [sum(text.startswith(p.choice) for text in asked[0]) for p in THREE]
    assert sum(counts) == 300
    assert min(counts) > 60
    asked.clear()
    turned = own.pair(prompts, b, a)
    assert asked[0] == asked[1]
    np.testing.assert_array_equal(turned.logits, -found.logits)


def test_chances_are_clamped():
    got = constitution.clamped(np.array([0.0, 0.45, 1.0, np.nan]), 0.4, 0.6)
    np.testing.assert_array_equal(got, [0.4, 0.45, 0.6, np.nan])
    with pytest.raises(ValueError, match="low < high <= 1; got 0"):
        constitution.clamped(np.zeros(1), 0.6, 0.4)


def test_the_exact_effect_of_revisions():
    # One principle: what broke it is written anew once, and may break it again.
    np.testing.assert_allclose(
        constitution.expected_patterns(np.array([0.8, 0.2]), 1), [0.96, 0.04]
    )
    first = np.array([0.5, 0.2, 0.1, 0.05, 0.05, 0.05, 0.03, 0.02])
    np.testing.assert_array_equal(constitution.expected_patterns(first, 0), first)
    # Against a plain simulation of all orders.
    rng, count = np.random.default_rng(0), 60000
    orders = np.array(list(itertools.permutations(range(3), 2)))[rng.integers(0, 6, count)]
    now = rng.choice(8, count, p=first)
    for principle in orders.T:
        now = np.where((now >> principle) & 1, rng.choice(8, count, p=first), now)
    got = np.bincount(now, minlength=8) / count
    want = constitution.expected_patterns(first, 2)
    assert want.sum() == pytest.approx(1)
    assert np.abs(got - want).max() < 4 * (0.25 / count) ** 0.5
    with pytest.raises(ValueError, match=r"2\^m numbers that sum to 1; got 3"):
        constitution.expected_patterns(np.array([0.5, 0.3, 0.2]), 1)
    with pytest.raises(ValueError, match="rounds must be"):
        constitution.expected_patterns(first, 4)
