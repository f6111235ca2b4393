"""Gradients in micro-batches are those of the batch, for every loss that any method can train."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import compat
from alignjax.algorithms import (
    distill,
    grpo,
    nash_md,
    opd,
    preset,
    pretrain,
    process_reward,
    ranked_reward,
    reward,
    scored_reward,
    sdft,
    sft,
    xpo,
)
from alignjax.models import transformer
from alignjax.runs import kinds
from alignjax.training import update
from tests.algorithms import test_online, test_pair_methods, test_reward_kinds, test_unpaired
from tests.rollouts import bigram, test_invariances
from tests.training import tiny

MODEL = transformer.transformer(tiny.shape())
TABLE = bigram.bigram(tiny.VOCAB)
ROWS, KEY, OTHER = 8, jax.random.key(3), jax.random.key(4)


def fitting(kind):
    """{(preset, method)} of a configuration class."""
    return {
        (name, method)
        for name in compat.PRESETS
        for method in compat.fitting(name, kind.TABLE, kind.WITHOUT, kind.MUST)
    }


SCORED = sorted(fitting(reward.RewardConfig))
LANGUAGE = sorted(fitting(sft.SftConfig))
DIVERGENCES = sorted(fitting(distill.DistillConfig))
KINDS = {
    (kind.__name__, *pair): (kind, make, rows)
    for kind, make, rows in (
        (ranked_reward.RankedRewardConfig, ranked_reward.ranked_reward, test_reward_kinds.rankings),
        (scored_reward.ScoredRewardConfig, scored_reward.scored_reward, test_reward_kinds.scored),
        (
            process_reward.ProcessRewardConfig,
            process_reward.process_reward,
            test_reward_kinds.steps,
        ),
    )
    for pair in fitting(kind)
}


def check(made, params, batch, frozen=None):
    """Gradient and metrics of 4 parts are those of the whole, and there is a gradient."""
    batch = {name: jnp.asarray(x) for name, x in batch.items()}
    (whole, metrics), (parts, others) = (
        jax.jit(update.make_gradients(made.loss, micro_batches=n))(params, frozen or {}, batch, KEY)
        for n in (1, 4)
    )
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(whole)) > 1e-5
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), whole, parts)
    for name, metric in metrics.items():
        value = others[name].value
        np.testing.assert_allclose(metric.value, value, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), SCORED)
def test_scores_of_pairs(name, method):
    """Rows of uneven weight, with all that raters may say of them."""
    rng = np.random.default_rng(0)
    columns = {"preference": (0.5, 1.0), "ties": (0.0, 0.5), "accuracies": (0.6, 1.0)}
    columns = {n: rng.uniform(*ends, (ROWS, 1)) for n, ends in columns.items()}
    recipe = compat.recipe(name, method)
    read = {n: x.astype(np.float32) for n, x in columns.items() if n in recipe.reads}
    weight = np.array([1, 7, 2, 0.5, 1, 1, 3, 1], np.float32)
    batch = {**tiny.rows(5, ROWS, 2), **read, "weight": weight}
    made = reward.reward(MODEL, reward.RewardConfig(compat=name, method=method))
    check(made, test_reward_kinds.params(), batch)


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(KINDS))
def test_scores_of_other_rows(case):
    kind, make, rows = KINDS[case]
    batch = rows()
    if case[2] == "outcome_reward":
        batch = test_reward_kinds.scored(labels=True)
    check(make(MODEL, kind(compat=case[1], method=case[2])), test_reward_kinds.params(), batch)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), [*LANGUAGE, ("", "pretrain")])
def test_tokens(name, method):
    config = pretrain.PretrainConfig(z_loss=1e-2)
    made = pretrain.pretrain(MODEL, config)
    if name:
        smoothing = 0.1 if method == "smoothed_nll" else 0.0
        config = sft.SftConfig(compat=name, method=method, label_smoothing=smoothing)
        made = sft.sft(MODEL, config)
    check(made, jax.jit(MODEL.init)(KEY), tiny.rows(0, ROWS))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), DIVERGENCES)
def test_divergences(name, method):
    config = distill.DistillConfig(compat=name, method=method, on_policy=0.0)
    places = {"eos": tiny.EOS, "pad": tiny.PAD, "width": tiny.PROMPT}
    made = distill.distill(TABLE, TABLE, config, **places)
    student, teacher = (jax.tree.map(lambda x: 3 * x, TABLE.init(k)) for k in (KEY, OTHER))
    check(made, student, tiny.rows(0, ROWS), {"teacher": teacher})


def test_every_loss_that_can_be_trained_is_here_or_in_a_test_of_its_own():
    known = {
        "DpoConfig": set(test_pair_methods.CASES),
        "UnpairedConfig": set(test_unpaired.CASES),
        "GrpoConfig": set(test_invariances.METHODS),
        "RewardConfig": set(SCORED),
        "SftConfig": set(LANGUAGE),
        "DistillConfig": set(DIVERGENCES),
        "other scorers": {(name, method) for _, name, method in KINDS},
    }
    everything = set().union(*known.values())
    # Their own objectives, followed in micro-batches by test_online.py.
    assert fitting(xpo.XpoConfig) == {("paper", "xpo"), ("trl-1.13", "xpo")}
    assert fitting(nash_md.NashMdConfig) == {("paper", "nash_md"), ("trl-1.13", "nash_md")}
    assert test_online.test_a_mesh_and_micro_batches_take_the_same_steps
    everything |= fitting(xpo.XpoConfig) | fitting(nash_md.NashMdConfig)
    for kind in kinds.methods():
        if issubclass(kind, preset.PresetConfig) and kind.__module__.startswith("alignjax."):
            assert fitting(kind) <= everything, kind
    assert fitting(sdft.SdftConfig) == known["DistillConfig"]
    assert fitting(opd.OpdConfig) < known["GrpoConfig"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: xpo.XpoConfig(compat="verl-0.9", method="kl_loss"),
            r"compat must be one of paper, trl-1.13, which have .*; got 'verl-0.9' and 'kl_loss'",
        ),
        (
            lambda: nash_md.NashMdConfig(compat="verl-0.9", method="entropy_bonus"),
            r"compat must be one of paper, trl-1.13, which have",
        ),
        (
            lambda: grpo.GrpoConfig(compat="verl-0.9", method="entropy_bonus"),
            r"must be one of ppo_clip, .*It does not read advantages",
        ),
    ],
)
def test_a_term_that_ignores_what_samples_are_worth_is_no_method(make, says):
    with pytest.raises(ValueError, match=says) as caught:
        make().recipe  # noqa: B018
    assert "\n" not in str(caught.value)
