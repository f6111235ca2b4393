"""What must not change a gradient: order, rows that do not count, micro-batches, packing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax.algorithms import grpo
from alignjax.core import struct
from alignjax.sampling import transforms
from tests.rollouts import hand, learner
from tests.training import tiny

P, G = 4, 4
NAN = hand.NAN
METHODS = learner.methods()
# Needed where the default of the release is none.
OPTIONS = {
    ("verl-0.9", "dro"): {"beta": 0.5},
    **{("tunix-0.1.7", name): {"estimator": "k3"} for name in ("grpo", "dr_grpo", "gspo_token")},
}
WHOLE_GROUPS = ("dapo_per_prompt",)  # one update of all rows


def config(preset, method, **changes):
    """Two epochs, so that ratios leave 1, where the loss allows it."""
    sampling = transforms.SamplingConfig(max_new_tokens=tiny.NEW)
    options = OPTIONS.get((preset, method), {})
    epochs = 1 if method in WHOLE_GROUPS else 2
    options = {"reward": "gold", "group": G, "epochs": epochs, "sampling": sampling, **options}
    return grpo.GrpoConfig(compat=preset, method=method, **{**options, **changes})


def couples(preset, method):
    """Whether rows depend on one another: these refuse micro-batches."""
    return config(preset, method).couples


def test_losses_of_several_rows_are_told():
    found = {method for method in METHODS if couples(*method)}
    assert found == {
        *((preset, name) for preset in ("paper", "verl-0.9") for name in ("clip_cov", "kl_cov")),
        ("paper", "dapo_per_prompt"),
    }


@functools.cache
def samples(model=learner.MODEL):
    return learner.drawn(P, G, model=model)


# One row of each group has no score; without it the last group is one of equal rewards.
REWARDS = np.array([[NAN, 1, 0, 1], [0, NAN, 1, 1], [1, 0, 0, NAN], [2, NAN, 2, 2]])
FAILED = np.array([[0] * 4] * 3 + [[0, 1, 0, 0]])
THERE = np.isfinite(REWARDS).reshape(-1)


def gradient(made, drawn, found, *, micro_batches=1, model=learner.MODEL):
    rows, _, _ = learner.collected(made, drawn, found, chunks=micro_batches, model=model)
    return learner.gradient(made, rows, micro_batches=micro_batches, model=model)[0]


def check_absence(preset="paper", method="grpo", model=learner.TABLE, **changes):
    """Under drop the gradient is that of a batch of smaller groups, without the dead one."""
    found, drawn = hand.found(REWARDS, FAILED), samples(model)
    whole = gradient(config(preset, method, dead="drop", **changes), drawn, found, model=model)
    kept = np.flatnonzero(THERE)[:9]  # three rows of each of three groups
    fewer = gradient(
        config(preset, method, group=G - 1, **changes),
        learner.only(drawn, kept),
        hand.found(REWARDS.reshape(-1)[kept]),
        model=model,
    )
    learner.assert_close(whole, fewer)


@pytest.mark.parametrize(("preset", "method"), METHODS)
def test_dead_groups_and_rows_without_a_score_are_not_there(preset, method):
    check_absence(preset, method)


@pytest.mark.parametrize("advantages", ["leave_one_out", "max_rl", "reinforce_plus_plus_baseline"])
def test_the_same_for_estimators_and_a_transformer(advantages):
    check_absence(model=learner.MODEL, advantages=advantages)


def test_dead_groups_weigh_in_the_mean_where_they_are_counted():
    """12 rows are averaged over instead of 9; their own advantages are 0."""
    found, model = hand.found(REWARDS, FAILED), learner.TABLE
    counted, dropped = (
        gradient(config("paper", "rloo", dead=dead), samples(model), found, model=model)
        for dead in ("count", "drop")
    )
    learner.assert_close(jax.tree.map(lambda x: x * 12 / 9, counted), dropped)


def permuted(tree, groups):
    order = (np.asarray(groups)[:, None] * G + np.arange(G)).reshape(-1)
    return learner.only(tree, order)


@pytest.mark.parametrize("advantages", ["group_relative", "reinforce_plus_plus", "otb"])
def test_permuted_prompts_permute_rows_and_advantages(advantages):
    made = config("paper", "grpo", advantages=advantages, kl_in_reward=0.1)
    found = hand.found(np.random.default_rng(0).normal(size=(P, G)))
    groups = [2, 0, 3, 1]
    rows = learner.collected(made, samples(), found)[0]
    moved = learner.collected(made, permuted(samples(), groups), permuted(found, groups))[0]
    assert rows.keys() == moved.keys()
    for name, x in permuted(rows, groups).items():
        np.testing.assert_allclose(moved[name], x, atol=2e-6, err_msg=name)
    learner.assert_close(learner.gradient(made, moved)[0], learner.gradient(made, rows)[0])


def test_permuted_samples_of_a_prompt_permute_its_rows():
    made = config("paper", "grpo", advantages="leave_one_out")
    found = hand.found(np.random.default_rng(0).normal(size=(P, G)))
    order = np.arange(P * G)
    order[4:8] = [6, 4, 7, 5]
    rows = learner.collected(made, samples(), found)[0]
    both = learner.only(samples(), order), learner.only(found, order)
    moved = learner.collected(made, *both)[0]
    for name, x in learner.only(rows, order).items():
        np.testing.assert_allclose(moved[name], x, atol=2e-6, err_msg=name)


def test_equal_prompts_stay_groups_of_their_own():
    """Groups are an axis: the baseline of one never sees the rewards of another."""
    one = samples()
    half = {name: x[: P * G // 2] for name, x in vars(one).items()}
    twice = type(one)(**{name: jnp.concatenate([x, x]) for name, x in half.items()})
    rewards = np.random.default_rng(1).normal(size=(P, G))
    rows = learner.collected(config("paper", "grpo"), twice, hand.found(rewards))[0]
    wanted = rewards - rewards.mean(1, keepdims=True)
    np.testing.assert_allclose(rows["advantages"], wanted.reshape(-1), atol=1e-6)


NORMAL = np.random.default_rng(2).normal(size=(P, G))


@pytest.mark.parametrize(("preset", "method"), [m for m in METHODS if not couples(*m)])
@pytest.mark.parametrize("pack", [False, True])
def test_micro_batches_change_nothing(preset, method, pack):
    made = config(preset, method, pack=pack)
    found, model = hand.found(NORMAL), learner.TABLE
    whole = gradient(made, samples(model), found, model=model)
    parts = gradient(made, samples(model), found, model=model, micro_batches=4)
    learner.assert_close(parts, whole, 2e-6)


@pytest.mark.parametrize("pack", [False, True])
def test_micro_batches_change_nothing_in_a_transformer(pack):
    made, found = config("paper", "grpo", pack=pack), hand.found(NORMAL)
    whole = gradient(made, samples(), found)
    learner.assert_close(gradient(made, samples(), found, micro_batches=4), whole, 2e-6)


@pytest.mark.parametrize("advantages", ["otb", "reinforce_plus_plus"])
def test_collecting_in_parts_changes_no_row(advantages):
    made = config("paper", "grpo", kl_in_reward=0.2, advantages=advantages)
    whole, parts = (
        learner.collected(made, samples(), hand.found(NORMAL), chunks=count) for count in (1, 4)
    )
    for name, x in whole[0].items():
        np.testing.assert_allclose(parts[0][name], x, atol=2e-6, err_msg=name)
    for name, x in whole[2].items():
        np.testing.assert_allclose(parts[2][name].value, x.value, atol=1e-5, err_msg=name)


def check_packed(preset, method, model):
    found = hand.found(REWARDS, FAILED)
    plain, packed = (
        gradient(config(preset, method, dead="drop", pack=pack), samples(model), found, model=model)
        for pack in (False, True)
    )
    learner.assert_close(packed, plain, 2e-6)


@pytest.mark.parametrize(("preset", "method"), [m for m in METHODS if m[1] not in WHOLE_GROUPS])
def test_packed_rows_train_as_rows_do(preset, method):
    check_packed(preset, method, learner.TABLE)


@pytest.mark.parametrize("method", ["dapo", "gspo"])
def test_packed_rows_train_a_transformer_as_rows_do(method):
    check_packed("paper", method, learner.MODEL)


def test_packed_rows_are_fewer():
    rows = learner.collected(config("paper", "grpo", pack=True), samples(), hand.found(NORMAL))[0]
    assert rows["tokens"].shape[0] < P * G
    assert int(rows["loss_mask"].sum()) == int(samples().mask.sum())


def test_what_lies_behind_a_row_is_not_read():
    """Padding of any id, whatever it is called, leaves rows and gradient as they are."""
    made = config("paper", "grpo")
    behind = np.arange(samples().tokens.shape[1])[None] >= np.asarray(samples().lengths)[:, None]
    dirty = struct.replace(samples(), tokens=jnp.where(behind, tiny.EOS, samples().tokens))
    clean, other = (gradient(made, x, hand.found(NORMAL)) for x in (samples(), dirty))
    learner.assert_close(other, clean)
