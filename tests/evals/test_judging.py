"""Judges with planted faults are measured as the closed forms say."""

import gzip
import json
import os
import pathlib

import numpy as np
import pytest
from scipy import special

from alignjax.evals import judging
from alignjax.feedback import agreement
from alignjax.rewards import judge

N = 5000
PROMPTS = [f"prompt {i}" for i in range(N)]
A, B = ([f"{side} {i}" for i in range(N)] for side in "ab")
RNG = np.random.default_rng(0)
BETTER = dict(zip(PROMPTS, RNG.integers(0, 2, N), strict=True))  # 1: a is better
LABELS = np.array([BETTER[p] for p in PROMPTS], float)


def truth(prompts, answers):
    return np.array(
        [float(BETTER[p] == x.startswith("a")) for p, x in zip(prompts, answers, strict=True)]
    )


def verdicts(**faults):
    return judge.noisy("noisy", truth, **faults).pair(PROMPTS, A, B)


@pytest.mark.parametrize(
    ("accuracy", "position", "want"),
    [
        (1.0, 0.1, (0.55, 0.100, 0.900, 1.000, 0.950)),
        (0.8, 0.1, (0.55, 0.359, 0.641, 0.921, 0.770)),
        (0.8, 0.3, (0.65, 0.457, 0.543, 0.887, 0.710)),
        (0.9, 0.129, (0.565, 0.266, 0.734, 0.974, 0.848)),
    ],
)
def test_the_table_of_noisy_judges(accuracy, position, want):
    np.testing.assert_allclose(judging.expected(accuracy, position), want, atol=5.1e-4)
    found = verdicts(accuracy=accuracy, position=position)
    right = judging.accuracy(found, LABELS)
    measured = (
        judging.first_rate(found), judging.flip_rate(found), right.share, right.accuracy,
        right.single,
    )  # fmt: skip
    for got, exact in zip(measured, judging.expected(accuracy, position), strict=True):
        assert got.value == pytest.approx(exact, abs=3 * got.se + 1e-12)
        assert got.se < 0.01
    # A pair that turns with its order is a tie of the mean, which is as often right as one order.
    assert right.averaged.value == pytest.approx(right.single.value)


def test_an_additive_bias_cancels_and_is_found():
    utilities = {text: float(u) for text, u in zip(A + B, RNG.normal(size=2 * N), strict=True)}

    def score(prompts, answers):
        return np.array([utilities[x] for x in answers])

    found = judge.rule("biased", score, position=0.5).pair(PROMPTS, A, B)
    clean = judge.rule("clean", score).pair(PROMPTS, A, B)
    np.testing.assert_allclose(found.logits, clean.logits, atol=1e-6)
    np.testing.assert_allclose(clean.a_first, clean.b_first, atol=1e-12)
    c = judging.position_logit(found)
    assert c.value == pytest.approx(0.5, abs=3 * c.se + 1e-9)
    equal = judge.rule("equal", lambda p, x: np.zeros(len(x)), position=0.5)
    both = equal.pair(PROMPTS[:2], A[:2], B[:2])
    np.testing.assert_allclose(special.expit(both.a_first), 0.622, atol=5e-4)
    np.testing.assert_array_equal(both.logits, 0)  # identical answers tie
    noise = RNG.logistic(size=(2, N))
    noisy = judge.Verdicts(found.a_first + noise[0], found.b_first + noise[1])
    c = judging.position_logit(noisy)
    assert c.value == pytest.approx(0.5, abs=3 * c.se)


def test_a_constant_first_judge_on_our_llmbar():
    beside = pathlib.Path(__file__).parents[3] / "shared"
    file = pathlib.Path(os.environ.get("ALIGNJAX_SHARED", beside)) / "data" / "llmbar"
    file /= "llmbar.eval.jsonl.gz"
    if not file.is_file():
        pytest.skip(f"no LLMBar data at {file}; set ALIGNJAX_SHARED to the shared folder")
    rows = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
    first = judge.Judge("first", judge.both_orders(lambda p, x, y: np.ones(len(p))))
    found = first.pair(*([row[n] for row in rows] for n in ("input", "output_1", "output_2")))
    labels = np.array([float(row["label"] == 1) for row in rows])
    assert np.mean((found.a_first > 0) == labels) == 152 / 313
    assert judging.accuracy(found, labels).averaged.value == 0.5
    assert judging.flip_rate(found).value == 1.0
    told = judging.report(found)
    assert "100% of pairs turn with their order" in told.warnings
    assert any("stands first" in warning for warning in told.warnings)


def test_a_good_judge_is_not_warned_about():
    told = judging.report(verdicts(accuracy=0.9))
    assert told.warnings == ()
    assert (told.pairs, told.unread) == (N, 0)


def test_what_could_not_be_read_is_counted_and_no_verdict():
    found = verdicts(accuracy=0.9)
    holes = judge.Verdicts(found.a_first.copy(), found.b_first.copy())
    holes.a_first[:500] = np.nan
    holes.b_first[250:700] = np.nan
    told = judging.report(holes)
    assert told.unread == 950
    assert told.warnings == ("950 of 10000 verdicts could not be read",)
    rest = judge.Verdicts(found.a_first[700:], found.b_first[700:])
    assert judging.accuracy(holes, LABELS) == judging.accuracy(rest, LABELS[700:])
    assert told.flips == judging.flip_rate(rest)
    assert told.first == judging.first_rate(rest)
    assert np.isnan(judging.flip_rate(judge.Verdicts(*np.full((2, 3), np.nan))).value)


def test_labels_are_checked():
    with pytest.raises(ValueError, match="1 where a is better"):
        judging.accuracy(verdicts(accuracy=0.9), LABELS + 1)
    unknown = np.where(np.arange(N) < 100, np.nan, LABELS)
    assert judging.accuracy(verdicts(accuracy=0.9), unknown).single.n == N - 100


def test_the_win_rate_at_equal_length():
    """Wins by sigmoid(.3 + .8 tanh(gap)): sigmoid(.3) at equal length, more as ours are longer."""
    rng = np.random.default_rng(1)
    lengths, others = rng.integers(80, 200, N), rng.integers(50, 150, N)
    gap = (lengths - others).astype(float)
    chance = special.expit(0.3 + 0.8 * np.tanh(gap / gap.std()))
    got = judging.length_controlled((rng.random(N) < chance).astype(float), lengths, others)
    assert got.controlled.value == pytest.approx(special.expit(0.3), abs=3 * got.controlled.se)
    assert got.win_rate.value > got.controlled.value + 3 * got.controlled.se
    assert got.longer.value > 0.55
    repeated = []
    for seed in range(100):
        again = np.random.default_rng(seed).random(N) < chance
        repeated.append(judging.length_controlled(again.astype(float), lengths, others))
    spread = np.std([r.controlled.value for r in repeated])
    assert got.controlled.se == pytest.approx(spread, rel=0.2)


def test_length_control_without_lengths_and_of_certain_winners():
    same = np.full(40, 10)
    wins = np.array([1.0, 0.0, 1.0, 0.5] * 10)
    got = judging.length_controlled(wins, same, same)
    assert got.controlled.value == pytest.approx(0.625, abs=1e-3)
    assert np.isnan(got.longer.value)
    certain = judging.length_controlled(np.ones(40), np.arange(40), same)
    assert 0.9 < certain.controlled.value <= 1
    gaps = judging.length_controlled(np.r_[wins, np.nan], np.r_[same, 5], np.r_[same, 9])
    assert gaps == got


def test_calibration_and_temperature():
    rng = np.random.default_rng(3)
    logits = 2 * rng.normal(size=20_000)
    labels = (rng.random(20_000) < special.expit(logits)).astype(float)
    assert judging.calibration_error(special.expit(logits), labels) < 0.012
    sure = 3 * logits
    assert judging.calibration_error(special.expit(sure), labels) > 0.1
    found = judging.temperature(sure, labels)
    assert found == pytest.approx(3, rel=0.05)
    assert judging.calibration_error(special.expit(sure / found), labels) < 0.012
    # By hand: two bins, .9 said of which half are right, .2 said of which a tenth are.
    chances, right = np.repeat([0.9, 0.2], 10), np.r_[[1, 0] * 5, [1], [0] * 9]
    assert judging.calibration_error(chances, right) == pytest.approx((0.4 + 0.1) / 2)
    assert judging.calibration_error(np.r_[chances, np.nan], np.r_[right, 1]) == pytest.approx(0.25)


def test_isotonic_calibration():
    """By hand: labels 0 1 1 0 0 1 at logits 1 .. 6: those at 2 .. 5 fall, and are pooled."""
    fit = judging.isotonic(np.array([6, 1, 2, 3, 4, 5.0]), np.array([1, 0, 1, 1, 0, 0.0]))
    np.testing.assert_allclose(fit.chances, [0, 0.5, 0.5, 0.5, 0.5, 1])
    between = fit(np.array([0.0, 1.5, 5.5, 9.0, np.nan]))
    np.testing.assert_allclose(between, [0, 0.25, 0.75, 1, np.nan])
    same = judging.isotonic(np.array([1, 1, 2, np.nan]), np.array([0, 1, 1, 0.0]))
    np.testing.assert_allclose(same.chances, [0.5, 1])
    rng = np.random.default_rng(5)
    logits = rng.normal(size=20_000)
    chance = special.expit(logits) ** 3  # no temperature mends that
    labels = (rng.random(20_000) < chance).astype(float)
    scaled = special.expit(logits / judging.temperature(logits, labels))
    fitted = judging.isotonic(logits[::2], labels[::2])(logits[1::2])
    assert judging.calibration_error(fitted, labels[1::2]) < 0.02
    assert judging.calibration_error(scaled, labels) > 0.05
    with pytest.raises(ValueError, match="a label at least once"):
        judging.isotonic(np.array([np.nan]), np.array([1.0]))


def test_beside_people():
    """Three people of accuracy .8: the truth agrees more with each than they with one another."""
    rng = np.random.default_rng(4)
    gold = rng.integers(0, 2, 2000)
    people = (gold ^ (rng.random((3, 2000)) < 0.2)).astype(float)
    got = judging.beside_people(gold.astype(float), people, draws=150)
    assert got.raw.low < 0.8 < got.raw.high
    assert got.kappa.low < 2 * 0.8 - 1 < got.kappa.high
    assert got.people_raw.low < agreement.expected_agreement(0.8) < got.people_raw.high
    assert got.people_kappa.low < agreement.expected_kappa(0.8) < got.people_kappa.high
    assert got.kappa.low > got.people_kappa.high
    labels = np.where(np.arange(2000) < 500, np.nan, gold)
    some = judging.beside_people(labels, people, draws=10)
    assert some.raw.n == 1500
    with pytest.raises(ValueError, match=r"people must be \[R, N\]"):
        judging.beside_people(gold, people[0])
