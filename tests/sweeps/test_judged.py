"""The statistics of a sweep against numbers worked out by hand."""

import math

import pytest

from alignjax.sweeps import judged, record
from alignjax.sweeps.record import Gate, Measure, Sweep

# Quantiles of Student's t from printed tables: two-sided 5% and 1%.
T_05 = {1: 12.706, 2: 4.303, 4: 2.776}
T_01 = {2: 9.925, 4: 4.604}


def sweep(*gates: Gate) -> Sweep:
    return Sweep(
        arms={"a": {}, "b": {}, "c": {}},
        baseline="a",
        measures=(Measure(name="x", key="x"),),
        gates=gates,
    )


def values(**arms: list[float]) -> dict:
    return {arm: {"x": dict(enumerate(own))} for arm, own in arms.items()}


FOUND = values(a=[1.0, 2.0, 4.0], b=[2.0, 4.0, 7.0], c=[1.0, 1.0, 4.0])


def test_a_summary_has_the_sd_of_one_seed_and_leaves_out_what_is_not_finite():
    found = judged.summary({0: 1.0, 1: math.nan, 2: 2.0, 3: 6.0})
    assert found == judged.Summary(3.0, pytest.approx(math.sqrt(7)), 3)
    assert math.isnan(judged.summary({0: 1.0}).sd)
    assert judged.summary({}).n == 0


def test_differences_are_paired_by_seed():
    """b - a is 1, 2, 3: mean 2, sd 1, se 1 / sqrt 3. c - a is 0, -1, 0."""
    b, c = judged.differences(FOUND, sweep())
    reach = T_05[2] / math.sqrt(3)
    assert (b.arm, b.value, b.n) == ("b", 2.0, 3)
    assert (b.low, b.high) == (
        pytest.approx(2 - reach, abs=1e-3),
        pytest.approx(2 + reach, abs=1e-3),
    )
    # t = 2 sqrt 3 with 2 degrees of freedom: p = 1 - t / sqrt(2 + t^2), in closed form.
    t = 2 * math.sqrt(3)
    assert b.p == pytest.approx(1 - t / math.sqrt(2 + t * t))
    # c: mean -1/3, sd 1/sqrt 3, t = -1.
    assert c.p == pytest.approx(1 - 1 / math.sqrt(3))
    assert b.adjusted == pytest.approx(2 * b.p)  # the smaller of two, by Holm
    assert c.adjusted == pytest.approx(c.p)


def test_a_seed_that_one_arm_lacks_is_in_no_pair():
    found = {**FOUND, "b": {"x": {0: 2.0, 2: 7.0, 9: 100.0}}}
    b, _ = judged.differences(found, sweep())
    assert (b.value, b.n) == (2.0, 2)
    assert b.high - b.value == pytest.approx(T_05[1] * 1.0, abs=1e-2)  # sd sqrt 2, n 2: se 1


def test_one_seed_has_no_interval():
    b, _ = judged.differences(values(a=[1.0], b=[2.0], c=[3.0]), sweep())
    assert b.value == 1.0
    assert math.isnan(b.low)
    assert math.isnan(b.p)


@pytest.mark.parametrize(
    ("rule", "bound", "state"),
    [
        (">", 0.0, judged.OPEN),  # 2 -+ 2.48
        (">", -0.5, judged.HOLDS),
        (">", 4.6, judged.FAILS),
        ("<", 0.0, judged.OPEN),
        ("<=", 4.5, judged.HOLDS),
        (">=", -0.4, judged.OPEN),
        ("within", 4.5, judged.HOLDS),
        ("within", 4.4, judged.OPEN),
    ],
)
def test_a_gate_holds_where_its_whole_interval_does(rule, bound, state):
    gate = Gate(measure="x", arm="b", other="a", rule=rule, bound=bound)
    (found,) = judged.gates(FOUND, sweep(gate))
    assert found.state == state
    assert found.value == 2.0


def test_a_null_fails_where_the_effect_is_told_apart_from_it():
    gate = Gate(measure="x", arm="b", other="a", rule="within", bound=0.5)
    (found,) = judged.gates(values(a=[0, 0, 0], b=[1.0, 1.1, 0.9], c=[0]), sweep(gate))
    assert found.state == judged.FAILS


def test_a_gate_of_one_arm_and_one_of_a_ratio():
    own = sweep(
        Gate(measure="x", arm="b", rule=">=", bound=0.0),
        Gate(measure="x", arm="b", other="a", rule=">=", bound=1.0, ratio=True),
    )
    one, ratio = judged.gates(FOUND, own)
    assert one.value == pytest.approx(13 / 3)
    assert ratio.value == pytest.approx((2 + 2 + 7 / 4) / 3)


def gate(kind: str, state: str) -> judged.Gate:
    own = Gate(measure="x", arm="a", rule=">", bound=0.0, kind=kind)
    return judged.Gate(own, 0.0, 0.0, 0.0, 3, state)


@pytest.mark.parametrize(
    ("states", "verdict"),
    [
        ([("shape", "holds"), ("size", "holds")], record.REPRODUCED),
        ([("shape", "holds")], record.REPRODUCED),
        ([("shape", "holds"), ("size", "open")], record.SHAPE),
        ([("shape", "holds"), ("size", "fails")], record.SHAPE),
        ([("shape", "fails"), ("shape", "open"), ("size", "holds")], record.NOT),
        ([("shape", "open"), ("shape", "holds")], record.UNTESTABLE),
        ([("premise", "open"), ("shape", "holds")], record.UNTESTABLE),
        ([("premise", "fails"), ("shape", "fails")], record.UNTESTABLE),
        ([("premise", "holds"), ("shape", "holds")], record.REPRODUCED),
        ([], record.UNTESTABLE),
    ],
)
def test_the_verdict_follows_from_the_gates(states, verdict):
    assert judged.verdict([gate(*own) for own in states]) == verdict


def test_expected_numbers_have_a_band_of_students_t_over_all_of_them():
    """sd 1 of 5 seeds, ours of 3: the error is sqrt(1/5 + 1/3); 4 degrees of freedom."""
    expected = {"a": {"x": (0.0, 1.0, 5)}}
    (found,) = judged.agreements(FOUND, expected)
    assert found.z == pytest.approx(7 / 3 / math.sqrt(8 / 15))
    assert found.band == pytest.approx(T_01[4], abs=1e-3)
    assert found.agrees
    (far,) = judged.agreements(FOUND, {"a": {"x": (-2.0, 1.0, 5)}})
    assert far.z == pytest.approx((7 / 3 + 2) / math.sqrt(8 / 15))
    assert not far.agrees
    both = judged.agreements(FOUND, {"a": {"x": (0.0, 1.0, 3)}, "b": {"x": (4.0, 1.0, 3)}})
    assert both[0].band > T_01[2]  # half the chance for each of two


def test_an_expected_sd_of_zero_allows_rounding_alone():
    there = judged.Summary(2.0, 0.0, 3)
    assert judged.place(judged.Summary(2.0, 0.0, 3), there) == 0.0
    assert abs(judged.place(judged.Summary(2.0 + 1e-7, 0.0, 3), there)) < 1
    assert abs(judged.place(judged.Summary(2.1, 0.0, 3), there)) > 1e4


def test_the_false_alarm_rate_is_the_stated_one():
    """Of 4000 sound sweeps with ten numbers of normal law, 1% leave a band: 40 -+ 4 sd."""
    import numpy as np

    rng, alarms = np.random.default_rng(0), 0
    for _ in range(4000):
        there, ours = rng.normal(size=(10, 5)), rng.normal(size=(10, 3))
        expected = {str(i): {"x": (row.mean(), row.std(ddof=1), 5)} for i, row in enumerate(there)}
        found = {str(i): {"x": dict(enumerate(row))} for i, row in enumerate(ours)}
        alarms += any(not own.agrees for own in judged.agreements(found, expected))
    assert 15 <= alarms <= 65
