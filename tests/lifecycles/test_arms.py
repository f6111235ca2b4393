"""Arms of reinforcement learning: what their reports say, and the shortest runs of them."""

import json

import numpy as np
import pytest

from alignjax.experiments import grpo_chain, review_grpo
from alignjax.experiments.common import arms, optimum
from tests.commands import cli


def test_learning_is_read_from_the_log():
    rewards = [0.2] * 10 + [0.9] * 20
    rows = [{"step": i, "reward": r, "dead": 0.5} for i, r in enumerate(rewards)]
    found = arms.learning(rows, 0.8)
    assert found["first"] == {"value": 0.2}
    assert found["last"]["value"] == pytest.approx(0.9)
    assert found["dead"]["value"] == 0.5
    # 9 of 10 steps at .9 and one at .2 are the first mean >= .8.
    assert found["steps"] == {"value": 19.0}
    assert np.isnan(arms.learning(rows, 0.95)["steps"]["value"])
    assert np.isnan(arms.learning(rows[:3], 0.1)["steps"]["value"])


def test_log_mean_exp_without_the_bias_of_few_draws():
    """Of a normal variable: log E exp(x) = mean + variance / 2."""
    draws = np.random.default_rng(0).normal(1.0, 0.5, (20_000, 16))
    found = optimum.log_mean_exp(draws)
    assert found.mean() == pytest.approx(1.125, abs=4e-3)


def test_arms_have_as_many_samples_and_name_their_stages():
    config = grpo_chain.get_config("estimators")
    config.validate()
    assert config.arms == grpo_chain.ARMS
    trained = [stage.training for stage in config.stages if stage.name in config.arms]
    assert {(t.loop.steps, t.loop.batch_size, t.algorithm.group) for t in trained} == {(200, 16, 8)}
    assert {stage.policy for stage in config.stages[2:]} == {"base"}
    config.arms = ("grpo", "none_such")
    with pytest.raises(ValueError, match="arms must be one of taught, base, grpo"):
        config.validate()
    review_grpo.get_config().validate()


@pytest.mark.slow
@pytest.mark.parametrize("file", ["grpo_chain", "review_grpo"])
def test_the_shortest_runs_report_their_arms(file, tmp_path):
    cli.run("run", f"--config=experiments/{file}.py:micro", f"--workdir={tmp_path}")
    results = json.loads((tmp_path / "results.json").read_text())
    (arm,) = [row for row in results["rows"] if row["stage"] == "grpo"]
    assert {"gold reward", "first", "last", "steps", "dead"} <= arm["metrics"].keys()
    if file == "review_grpo":
        assert arm["metrics"][optimum.DISTANCE]["n"] == 4
        assert "pass@1" not in arm["metrics"]
    else:
        assert arm["metrics"]["pass@4"]["n"] == 16
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Rollouts</h2>" in page
