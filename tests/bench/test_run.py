"""The bench's runner: what it refuses, what it plans, and one code base measured for real."""

import json
import types

import pytest

from bench import checks, environments, run, workloads

W1 = workloads.Case("W1", "M0")


def arm(name, *, loss=6.2, tokens=64, case=W1, parameters=W1.model.parameters):
    turns = [{"tokens": tokens, "loss": loss}] * 2
    return types.SimpleNamespace(name=name, case=case, turns=turns, parameters=parameters)


def test_arms_of_one_loss_pass():
    checks.step([arm("alignjax"), arm("trl", loss=6.20009)], 0)
    checks.sizes(arm("trl"))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (arm("trl", loss=6.2002), "losses of W1 on M0 must agree within 0.0001"),
        (arm("trl", loss=float("nan")), "must agree"),
        (arm("trl", tokens=62), "trl must count 64 tokens in step 0 of W1; it counts 62"),
    ],
)
def test_other_work_is_refused(other, said):
    with pytest.raises(SystemExit, match=said):
        checks.step([arm("alignjax"), other], 0)


def test_another_first_loss_of_dpo_is_refused():
    case = workloads.Case("W2", "M0")
    both = [arm(name, loss=0.7, tokens=128, case=case) for name in ("alignjax", "trl")]
    with pytest.raises(SystemExit, match="must be log 2 in DPO"):
        checks.step(both, 0)


def test_other_sizes_are_refused():
    with pytest.raises(SystemExit, match="must train 106816 numbers in W1 on M0; it trains 7"):
        checks.sizes(arm("trl", parameters=7))
    assert checks.parameters(workloads.Case("W5ppo", "M0")) == 2 * 106816 + 64


def test_what_is_not_there_is_left_out_in_a_line(tmp_path, capsys):
    found = environments.pythons(["alignjax", "trl"], tmp_path, install=False)
    assert list(found) == ["alignjax"]
    assert "TRL is left out" in capsys.readouterr().err
    (tmp_path / "trl").write_text("in the way")
    problem = environments.set_up("trl", tmp_path)
    assert problem.startswith("TRL is not installed: ")
    assert len(problem.splitlines()) == 1


def test_a_quick_plan_is_small(tmp_path):
    given = run.parse(["--quick", f"--out={tmp_path / 'r.jsonl'}"])
    plan = run.plan_of(given, {"alignjax": "python"}, began=100.0)
    assert {case.model_name for case in plan.cases} == {"M1"}
    assert plan.threads == [1]
    assert 100 < plan.deadline < 100 + 600
    assert plan.steps(plan.cases[0]) == (1, 2)
    whole = run.plan_of(run.parse([]), {}, began=0.0)
    assert len(whole.cases) == 2 * len(workloads.WORKLOADS)
    assert whole.threads == [1, 2]
    assert min(whole.steps(case)[1] for case in whole.cases) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["W1v", "W2"])
def test_alignjax_is_measured(name, tmp_path, capsys):
    out = tmp_path / "r.jsonl"
    options = ["--arms=alignjax", "--models=M0", "--threads=1", "--pairs=2", f"--workloads={name}"]
    run.main([*options, f"--out={out}"])
    (line,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert line["parameters"] == W1.model.parameters
    assert len(line["turns"]) == 3
    assert all(turn["cpu"] > 0 and turn["peak"] > 100 for turn in line["turns"])
    assert len(line["ahead"]) == (3 if name == "W2" else 0)
    assert line["ceiling"]["gflops"] > 0
    assert f"| {name} | AlignJAX |" in capsys.readouterr().out
