"""What the ReviewWorld lifecycle does between its stages: pairs, gates, memory."""

import dataclasses
import json
import math
import types

import numpy as np
import pytest

from alignjax.experiments import lifecycle
from alignjax.experiments.common import review, review_gates
from alignjax.lifecycles import lifecycle as stages
from alignjax.worlds import oracle
from alignjax.worlds import review as world_review


def labelled(gold, temperature, seed=0, tokens=None):
    gold = np.asarray(gold, float)
    prompts, draws = gold.shape
    if tokens is None:
        tokens = np.arange(prompts * draws * 4).reshape(prompts, draws, 4)
    lengths = np.full(gold.shape, 4)
    rng = np.random.default_rng(seed)
    return review.label_pairs(rng, tokens, lengths, gold, temperature, start=2)


def orders(table):
    """(gold of the preferred, gold of the other) of every comparison that counts."""
    rows = np.arange(len(table["gold"]))[:, None, None]
    return table["gold"][rows, table["preferred"]][table["pair_mask"]]


def test_all_pairs_of_a_prompt_the_better_one_first():
    table = labelled([[0.0, 3.0, 1.0], [5.0, 4.0, 4.0]], temperature=0)
    # Of the second prompt's three comparisons the tie is left out.
    assert orders(table).tolist() == [[3, 0], [1, 0], [3, 1], [5, 4], [5, 4]]
    assert table["tokens"].shape == (2, 3, 4)
    assert table["preferred"].shape == (2, 3, 2)
    np.testing.assert_array_equal(table["loss_mask"][0], [[0, 0, 1, 1]] * 3)


def test_labels_follow_bradley_terry():
    gold = np.tile([[0.0, 1.2]], (40_000, 1))
    for temperature in (1.0, 2.0):
        found = orders(labelled(gold, temperature))
        assert len(found) == 40_000
        share = np.mean(found[:, 0] > found[:, 1])
        expected = 1 / (1 + math.exp(-1.2 / temperature))
        assert abs(share - expected) < 4 * math.sqrt(0.25 / 40_000)


def test_flips_turn_their_share_of_labels_round_and_leave_the_others():
    """Of labels by the larger reward, so that every one that differs was turned."""
    gold = np.tile([[0.0, 1.2]], (40_000, 1))
    tokens = np.arange(40_000 * 2 * 4).reshape(-1, 2, 4)

    def preferred(flip):
        rng = np.random.default_rng(0)
        lengths = np.full(gold.shape, 4)
        return review.label_pairs(rng, tokens, lengths, gold, 0.0, start=2, flip=flip)["preferred"]

    clean, noisy = preferred(0.0)[:, 0], preferred(0.2)[:, 0]
    assert (clean == [1, 0]).all()
    turned = (noisy == [0, 1]).all(axis=1)
    assert (noisy[~turned] == clean[~turned]).all()
    assert abs(turned.mean() - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 40_000)


def test_equal_completions_are_not_compared():
    tokens = np.zeros((2, 2, 4), int)
    tokens[1, 1] = 7
    assert len(orders(labelled([[0.0, 0.0], [0.0, 1.0]], 1.0, tokens=tokens))) == 1


def test_gates_hold_at_their_bound_and_never_for_nan():
    assert stages.Gate("x", 0.04, "<=", 0.04).passed
    assert not stages.Gate("x", 10.0, ">", 10).passed
    for rule in stages.RULES:
        assert not stages.Gate("x", math.nan, rule, 0.0).passed


def test_policy_stages_have_the_strongest_pull_first():
    config = lifecycle.get_config()
    names = list(review.policy_stages(config))
    assert names[:3] == ["dpo-1", "dpo-0.3", "dpo-0.1"]
    assert review.policy_stages(config)["ppo-gold-0.5"] == ("ppo-gold", 0.5)


@pytest.fixture(scope="module")
def frontier():
    world = world_review.make_review_world(world_review.ReviewWorldConfig())
    prompts = world_review.sample_documents(world, np.random.default_rng(0), 64)[0][:, :6]
    return oracle.exact_optimum(world, prompts)


def findings(frontier, **policies):
    """Findings with (gold gain, KL) of every policy over an SFT of reward -0.1."""

    def cell(value, se=0.05):
        return {"value": value, "se": se}

    runs = {"sft": {"gold": cell(-0.1), "kl": cell(0.0), "correlation": cell(0.8)}}
    runs |= {n: {"gold": cell(g - 0.1), "kl": cell(k, 0.01)} for n, (g, k) in policies.items()}
    return review_gates.Findings(
        excess={"pretrain": cell(0.02), "sft": cell(0.02)},
        reward={"accuracy": cell(0.85), "label_accuracy": cell(0.7)},
        evaluations=runs,
        best_of_n=[{"kl": cell(0.18), "bound": math.log(2) - 0.5, "gold": cell(0.5)}],
        frontier=frontier,
    )


BETAS = types.SimpleNamespace(dpo_betas=(1.0,), ppo_betas=(0.3,), gold_betas=(1.0,))


def judged(found):
    return {gate.name: gate.passed for gate in review_gates.gates(BETAS, found)}


def test_a_good_run_passes_and_each_fault_is_named(frontier):
    best = frontier.gain_at
    good = {
        "dpo-1": (0.7 * best(1.0), 1.0),
        "ppo-0.3": (0.7 * best(2.0), 2.0),
        "ppo-gold-1": (0.9 * best(2.0), 2.0),
    }
    assert all(judged(findings(frontier, **good)).values())

    def missed(**changes):
        verdict = judged(findings(frontier, **{**good, **changes}))
        return {name for name, passed in verdict.items() if not passed}

    assert "dpo-1: efficiency" in missed(**{"dpo-1": (0.5 * best(1.0), 1.0)})
    assert missed(**{"dpo-1": (0.2, 0.01)}) >= {"dpo-1: gain over SFT, standard errors"}
    above = missed(**{"ppo-gold-1": (1.1 * best(2.0), 2.0)})
    assert above == {"largest efficiency of all"}
    behind = missed(**{"ppo-gold-1": (0.6 * best(2.0), 2.0)})
    assert "PPO on gold: gain above ppo-0.3 at its KL" in behind


OWN = {"kl": [0.0, 1.0, 4.0], "reward": [-0.1, 1.9, 3.9], "draws": 64, "prompts": 32}


def test_a_model_that_has_not_learned_is_compared_with_its_own_optimum(frontier):
    found = findings(frontier, **{"dpo-1": (1.5, 2.25)})
    excess = {**found.excess, "sft": {"value": 0.5, "se": 0.01}}
    far = dataclasses.replace(found, excess=excess, own=OWN)
    line = review_gates._own_line(far, -0.07)
    assert not line["is_bound"]
    assert line["own"]["gold"] == pytest.approx([-0.07, 1.93, 3.93])
    (note,) = review_gates._bound_note(far)
    assert "0.500 nats a token from the generator" in note
    assert "64 draws for each of 32 prompts, up to 4.00 nats" in note
    share = review_gates._own_share(far, {"value": 1.4, "se": 0.03}, 2.25)["own"]
    assert share["value"] == pytest.approx(1.5 / 3)  # linear in sqrt(KL): 3 at 2.25 nats
    assert share["se"] == pytest.approx(math.hypot(0.03, 0.05) / 3)
    assert review_gates._own_share(far, {"value": 1.4, "se": 0.03}, 4.1) == {}


def test_a_model_that_has_learned_is_bounded_by_the_exact_curve(frontier):
    found = dataclasses.replace(findings(frontier, **{"dpo-1": (1.5, 2.25)}), own=OWN)
    assert review_gates._own_line(found, 0.0) == {"is_bound": True}
    assert review_gates._bound_note(found) == []
    older = dataclasses.replace(found, own=None)
    assert review_gates._own_share(older, {"value": 1.0, "se": 0.1}, 1.0) == {}


def test_best_of_n_above_its_bound_is_missed(frontier):
    found = findings(frontier, **{"dpo-1": (1.0, 1.0), "ppo-0.3": (1, 1), "ppo-gold-1": (1.5, 1)})
    row = {**found.best_of_n[0], "kl": {"value": 0.3, "se": 0.0}}
    assert not judged(dataclasses.replace(found, best_of_n=[row]))[
        "best-of-n: KL above its bound, nats"
    ]


def test_an_evaluation_is_made_once(tmp_path):
    space = types.SimpleNamespace(path=lambda stage: tmp_path / stage, seconds={}, _store=None)
    calls = []

    def make():
        calls.append(1)
        return {"x": 1 / 3}

    for _ in range(3):
        assert stages.Workspace.remember(space, "sft", "accuracy", make) == {"x": 1 / 3}
    assert calls == [1]
    assert json.loads((tmp_path / "sft" / "accuracy.json").read_text()) == {"x": 1 / 3}
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("pair_draws", 1), ("best_of", 1), ("eval_batch", 0), ("gold_betas", (0.0,)), ("seed", -1)],
)
def test_bad_numbers_are_refused_by_name(field, value):
    config = lifecycle.get_config("micro")
    setattr(config, field, value)
    with pytest.raises(ValueError, match=field):
        config.validate()


def test_a_variant_must_exist():
    with pytest.raises(ValueError, match="variants"):
        lifecycle.get_config("macro")
