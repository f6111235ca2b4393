"""A guard in use: what reviews say is set against what is true; the micro lifecycle runs."""

import json
import math

import numpy as np
import pytest

from alignjax.evals import estimate, sampled
from alignjax.experiments import deployment as experiment_file
from alignjax.experiments.common import deployment
from alignjax.feedback import exchanges
from alignjax.lifecycles import lifecycle
from alignjax.serving import guarding, thresholds
from alignjax.worlds import traffic


def test_the_language_of_a_message_is_told_by_its_plain_words():
    for own in traffic.messages(0, 200, traffic.Rates(unsafe=0.5, novel=0.5)):
        assert deployment.language(deployment.asked(own)) in (own.language, thresholds.ALL)
    unknown = traffic.Message("zzz", "en", -1, 0, False)
    assert deployment.language(deployment.asked(unknown)) == thresholds.ALL


def reviewed(number, unsafe, probability):
    return exchanges.Reviewed(
        number, (("human", "x"),), "en", "before", {}, False, "allowed", probability, "g", 1.0,
        {"amber": float(unsafe)},
    )  # fmt: skip


def test_drift_is_told_after_as_many_reviews_as_it_takes():
    rng = np.random.default_rng(0)
    late = [reviewed(i, rng.random() < 0.3, 0.5) for i in range(400)]
    found = deployment.reviews_until(late, 800, 0.05)
    assert 5 < found < 100
    calm = [reviewed(i, rng.random() < 0.04, 0.5) for i in range(200)]
    assert math.isinf(deployment.reviews_until(calm, 400, 0.05))


def test_rates_stand_beside_the_truth_of_all_exchanges():
    own = [traffic.Message("a", "en", c, 0, False) for c in (-1, -1, 0, 1)]
    said = [guarding.Verdict(b) for b in (True, False, True, False)]
    rates = sampled.rates([1, 0, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1])
    found = deployment.told(rates, own, said)
    for name in ("false_positive", "false_negative", "unsafe"):
        assert found[name]["truth"] == found[name]["value"] == 0.5
        assert found[name]["z"] == 0
    limit = thresholds.Threshold(0.5, 500, 476, 0.05)
    exact = estimate.Estimate(limit.mean + 0.01, 0.0, 10**9)
    assert deployment._distance(exact, limit) == pytest.approx(0.01 / 0.0097, rel=0.01)


@pytest.mark.slow
def test_the_micro_deployment_runs_and_goes_on(tmp_path):
    config = experiment_file.get_config("micro")
    config.calibration_rows, config.frozen_rows = 200, 100
    config.calm = config.drifted = 60
    config.plan_band = 0.0  # scores of so few steps are all near one another
    lines = []
    assert lifecycle.run(config, tmp_path, lines.append) == []
    results = json.loads((tmp_path / "results.json").read_text())
    assert [row["label"] for row in results["rows"]] == ["guard", "retrained"]
    cells = results["rows"][1]["metrics"]
    assert cells["AUC amber"]["expected"] == pytest.approx(traffic.best_auc(traffic.Rates()))
    assert cells["FPR en amber"]["expected"] <= 0.05
    told = json.loads((tmp_path / "labels" / "deployment.json").read_text())
    assert told["reviews"]["calm"] <= 60
    rows = (tmp_path / "labels" / "rows" / "train.jsonl").read_text().splitlines()
    assert len(rows) == config.data.rows + told["reviews"]["drifted"]
    weights = [own["weight"] for own in map(json.loads, rows) if "weight" in own]
    assert np.mean(weights) == pytest.approx(1)
    assert len(set(weights)) > 1
    assert lifecycle.run(config, tmp_path, lines.append) == []
    assert any("finished before, skipped" in line for line in lines)
