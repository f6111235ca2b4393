"""Recipes of policy losses and advantages: what holds for all, and where they differ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import compat, losses

B, T = 6, 5
ROWS = "11111 11000 10000 11110 11100 11000"
MASK = np.array(
    [[int(c) for c in row] for row in ["11111", "11000", "10000", "11110", "11100", "11000"]]
)
PAPER = (
    "ppo_clip grpo dr_grpo dapo dapo_per_prompt bnpo cispo gspo gspo_token sapo gmpo luspo vespo"
)
TRL = "grpo gspo bnpo dr_grpo dapo luspo cispo sapo vespo gmpo rloo_clip"
METHODS = [
    *[("paper", name) for name in [*PAPER.split(), "reinforce", "rloo", "rloo_clip"]],
    *[
        ("trl-1.16", name)
        for name in [
            "grpo",
            "gspo",
            "bnpo",
            "dr_grpo",
            "dapo",
            "luspo",
            "cispo",
            "sapo",
            "vespo",
            "gmpo",
            "rloo_clip",
        ]
    ],
    ("trl-1.12", "ppo_clip"),
    ("trl-1.13", "gspo_token"),
    ("trl-1.13", "nash_md"),
]
OPTIONS = {"dapo_per_prompt": {"group_size": 2}}
# What averages -A log pi to the gradient at ratio 1; TRL's CISPO is a test of its own.
ROW_MEAN, ROW_SUM = (losses.row_mean, {}), (losses.row_sum, {})
AT_RATIO_1 = {
    **dict.fromkeys(("grpo", "gspo", "gspo_token", "sapo", "gmpo"), ROW_MEAN),
    **dict.fromkeys(("reinforce", "rloo", "rloo_clip", "luspo"), ROW_SUM),
    **dict.fromkeys(("ppo_clip", "dapo", "bnpo", "cispo", "vespo"), (losses.token_mean, {})),
    "dapo_per_prompt": (losses.group_mean, {"group_size": 2}),
}
ON_POLICY = {
    ("paper", "grpo"): {"kl_weight": 0.0},
    ("trl-1.13", "gspo_token"): {"reduction": "row_mean"},
    ("trl-1.16", "luspo"): {"level": "sequence"},
}
# The papers' formulas in the quick tests; the releases compute with the same functions.
every = pytest.mark.parametrize(
    ("preset", "method"),
    [pytest.param(p, m, marks=[] if p == "paper" else pytest.mark.slow) for p, m in METHODS],
)


def batch(seed=0, **others):
    rng = np.random.default_rng(seed)
    logprobs = -rng.exponential(1.0, (B, T)) - 0.02
    near = {
        name: np.minimum(logprobs + 0.5 * rng.normal(size=(B, T)), -0.01)
        for name in ("old_logprobs", "reference_logprobs")
    }
    rows = {"advantages": rng.normal(size=B), "preferences": rng.uniform(size=B)}
    arrays = {"logprobs": logprobs, **near, **rows}
    floats = {name: x.astype(np.float32) for name, x in arrays.items()}
    return {**floats, "mask": MASK, **others}


def terms(preset, method, arrays, **options):
    return compat.recipe(preset, method)(arrays, **OPTIONS.get(method, {}), **options)


def value(preset, method, arrays, **options):
    return sum(term.value for term in terms(preset, method, arrays, **options).values())


def gradient(preset, method, arrays, **options):
    def loss(logprobs):
        return value(preset, method, {**arrays, "logprobs": logprobs}, **options)

    return jax.grad(loss)(jnp.asarray(arrays["logprobs"]))


def near(x, want, tolerance=2e-6):
    np.testing.assert_allclose(np.asarray(x), want, rtol=tolerance, atol=tolerance)


@every
def test_micro_batches_are_one_batch(preset, method):
    arrays = batch()
    parts = [{k: x[i : i + 2] for k, x in arrays.items()} for i in range(0, B, 2)]
    whole = terms(preset, method, arrays)
    joined = [terms(preset, method, part) for part in parts]
    for name, term in whole.items():
        total = sum((part[name] for part in joined[1:]), joined[0][name])
        near(total.value, term.value)
        near(total.weight, term.weight)


@every
def test_masked_tokens_and_rows_weigh_nothing(preset, method):
    arrays = batch()
    rng = np.random.default_rng(1)
    spoilt = {
        k: np.where(MASK, x, 50 * rng.normal(size=x.shape)).astype(np.float32)
        if np.ndim(x) == 2 and k != "mask"
        else x
        for k, x in arrays.items()
    }
    padded = {
        k: np.concatenate([x, x[:2] if k != "mask" else 0 * x[:2]]) for k, x in spoilt.items()
    }
    near(value(preset, method, padded), value(preset, method, arrays))
    slopes = gradient(preset, method, padded)
    near(slopes[:B], gradient(preset, method, arrays))
    assert not np.any(np.asarray(slopes[B:]))
    assert not np.any(np.asarray(slopes[:B])[MASK == 0])


@pytest.mark.parametrize(
    ("preset", "method"),
    [(p, m) for p, m in METHODS if m in AT_RATIO_1 and (p, m) != ("trl-1.16", "cispo")],
)
def test_on_policy_gradient_is_that_of_reinforce(preset, method):
    """Without old_logprobs the policy itself is the old one."""
    arrays = {k: x for k, x in batch().items() if k != "old_logprobs"}
    reduce, numbers = AT_RATIO_1[method]
    result = gradient(preset, method, arrays, **ON_POLICY.get((preset, method), {}))

    def plain(logprobs):
        token = losses.reinforce(logprobs, arrays["advantages"], MASK)
        return reduce(token, MASK, **numbers).value

    near(result, jax.grad(plain)(jnp.asarray(arrays["logprobs"])))


def test_dapo_is_one_mean_over_the_batch_or_one_per_prompt():
    """Two prompts of two samples, of 4 and 20 tokens. Per prompt both weigh 1/2."""
    mask = np.zeros((4, 10), int)
    mask[:2, :2] = mask[2:] = 1
    advantages = np.array([1.0, 1.0, -1.0, -1.0], np.float32)
    zeros = np.zeros((4, 10), np.float32)
    arrays = {"logprobs": zeros, "old_logprobs": zeros, "advantages": advantages, "mask": mask}
    per_prompt = compat.recipe("paper", "dapo_per_prompt")(arrays, group_size=2)
    near(per_prompt["policy"].value, 0.0)
    for preset in ("paper", "trl-1.16"):
        near(value(preset, "dapo", arrays), (20 - 4) / 24)
    near(value("trl-1.16", "grpo", arrays), 0.0)  # each row one vote, here as per prompt


def test_micro_batch_means_are_not_the_batch_mean():
    """Averaging means of unequal micro-batches weighs their tokens differently; adding Means does
    not."""
    arrays = batch()
    halves = [{k: x[i : i + 3] for k, x in arrays.items()} for i in (0, 3)]
    result = [terms("trl-1.16", "dapo", half)["policy"] for half in halves]
    assert result[0].weight != result[1].weight
    whole = float(value("trl-1.16", "dapo", arrays))
    near((result[0] + result[1]).value, whole)
    assert abs(float(result[0].value + result[1].value) / 2 - whole) > 1e-3


def test_epsilon_high_of_trl_cispo_is_the_bound_itself():
    """At ratio 1 TRL's default weighs each token 0.2; a paper's 1 + eps_high = 1.2 changes none."""
    arrays = {k: x for k, x in batch().items() if k != "old_logprobs"}
    token = losses.reinforce(arrays["logprobs"], arrays["advantages"], MASK)
    plain = losses.token_mean(token, MASK).value
    near(value("trl-1.16", "cispo", arrays), 0.2 * plain)
    near(value("trl-1.16", "cispo", arrays, maximum_ratio=1.2), plain)
    near(value("paper", "cispo", arrays), plain)


def test_ranges_and_levels_that_papers_and_trl_do_not_share():
    default = {p: compat.recipe(p, "gspo").defaults["clip_high"] for p in ("paper", "trl-1.16")}
    assert default == {"paper": 4e-4, "trl-1.16": 0.2}
    assert compat.recipe("trl-1.16", "luspo").defaults["level"] == "token"
    arrays = batch()
    near(
        value("trl-1.16", "luspo", arrays, level="sequence", clip_low=3e-4, clip_high=4e-4),
        value("paper", "luspo", arrays),
    )
    assert abs(value("trl-1.16", "luspo", arrays) - value("paper", "luspo", arrays)) > 1e-3


def test_fully_masked_answers_count_in_row_means_if_asked():
    """TRL divides by all rows, those of truncated answers included."""
    arrays = batch()
    arrays["mask"] = MASK * (np.arange(B) > 1)[:, None]
    rows = np.ones(B, int)
    for method in ("grpo", "gspo", "luspo", "dr_grpo"):
        plain = value("trl-1.16", method, arrays)
        near(value("trl-1.16", method, {**arrays, "row_mask": rows}), plain * (B - 2) / B)


def test_a_lone_masked_row_moves_nothing():
    """TRL's GMPO gives it exp(0) = 1 times -A: a number without a gradient."""
    arrays = batch(row_mask=np.ones(B, int))
    arrays["mask"] = 0 * MASK
    assert float(value("trl-1.16", "gmpo", arrays)) == 0.0
    assert not np.any(np.asarray(gradient("trl-1.16", "gmpo", arrays)))


def test_upper_bound_on_the_ratio_below_the_clip_is_refused():
    with pytest.raises(ValueError, match=r"dual_clip must be .*>= 1.3"):
        value("trl-1.16", "grpo", batch(), clip_high=0.3, dual_clip=1.2)


def test_sampler_weights_apply_to_batches_that_have_them():
    arrays = batch()
    sampler = arrays["old_logprobs"] - 0.1
    sampler[0, 0] = np.nan  # not reported: ratio 1
    with_sampler = {**arrays, "sampler_logprobs": sampler}
    plain = value("trl-1.16", "dapo", arrays)
    near(value("trl-1.16", "dapo", with_sampler, sampler_level=None), plain)
    result = value("trl-1.16", "dapo", with_sampler, sampler_level="token")
    per_token = losses.ppo_clip(
        *(arrays[k] for k in ("logprobs", "old_logprobs", "advantages", "mask"))
    )
    weights = np.full((B, T), np.exp(0.1))
    weights[0, 0] = 1.0
    near(result, np.sum(np.asarray(per_token) * weights) / MASK.sum())
    longest = value("trl-1.16", "dapo", with_sampler, sampler_maximum=np.exp(0.35))
    kept = np.where(np.isnan(sampler), 0.0, 0.1 * MASK).sum(-1) < 0.35
    scale = np.exp(np.where(np.isnan(sampler), 0.0, 0.1 * MASK).sum(-1)) * kept
    near(longest, np.sum(np.asarray(per_token) * scale[:, None]) / MASK.sum())


def test_entropy_and_kl_are_terms_of_their_own():
    entropy = np.random.default_rng(3).exponential(size=(B, T)).astype(np.float32)
    arrays = batch(entropy=entropy)
    result = terms("trl-1.16", "dapo", arrays, kl_weight=0.1, entropy_weight=0.5)
    assert set(result) == {"policy", "kl", "entropy"}
    near(result["entropy"].value, -0.5 * entropy[MASK == 1].mean())
    rho = np.exp(arrays["logprobs"] - arrays["old_logprobs"])
    gap = arrays["reference_logprobs"] - arrays["logprobs"]
    k3 = (np.exp(gap) - 1 - gap)[MASK == 1]
    near(result["kl"].value, 0.1 * (k3 * rho[MASK == 1]).mean(), 1e-5)
    plain = terms("trl-1.16", "dapo", arrays, kl_weight=0.1, kl_corrected=False)
    near(plain["kl"].value, 0.1 * k3.mean(), 1e-5)


def test_top_entropy_tokens_alone_get_a_policy_gradient():
    entropy = np.arange(B * T, dtype=np.float32).reshape(B, T)
    arrays = batch(entropy=entropy)
    result = np.asarray(gradient("trl-1.16", "dapo", arrays, entropy_share=0.25))
    highest = np.quantile(entropy[MASK == 1], 0.75)
    assert np.all(result[entropy < highest] == 0)
    assert np.any(result[(MASK == 1) & (entropy >= highest)])
    weight = terms("trl-1.16", "dapo", arrays, entropy_share=0.25)["policy"].weight
    assert weight == MASK.sum()  # TRL still divides by all tokens


def test_off_policy_rows_are_dropped_only_where_the_advantage_is_negative():
    old = batch()["logprobs"] + 0.3
    arrays = batch(old_logprobs=old, advantages=np.array([1, -1, 1, -1, 1, -1], np.float32))
    result = np.asarray(
        gradient("trl-1.16", "grpo", arrays, off_policy_threshold=0.2, clip_low=0.9)
    )
    assert np.all(result[1::2] == 0)
    assert np.all(result[::2, 0] != 0)


# --- advantages ---
REWARDS = np.array([[1.0, 2.0, 6.0], [np.nan, 3.0, 5.0], [np.nan, np.nan, 4.0]], np.float32)


def test_missing_rewards_enter_no_statistic():
    result = compat.recipe("trl-1.16", "group_relative")({"rewards": REWARDS}, scale="none")
    near(result, [[-2, -1, 3], [0, -1, 1], [0, 0, 0]])
    std = np.nanstd(REWARDS, ddof=1)
    whole = compat.recipe("trl-1.16", "group_relative")({"rewards": REWARDS}, scale="batch")
    near(whole, np.asarray(result) / (std + 1e-4))
    baseline = compat.recipe("trl-1.16", "leave_one_out")({"rewards": REWARDS}, kl_weight=0.0)
    near(baseline, [[-3, -1.5, 4.5], [0, -2, 2], [0, 0, 0]])
    near(compat.recipe("paper", "leave_one_out")({"rewards": REWARDS}), baseline)


def test_gdpo_normalises_before_the_sum():
    """A reward a thousand times larger does not drown the other, as it does summed first."""
    rng = np.random.default_rng(0)
    small = rng.normal(size=(2, 4)).astype(np.float32)
    large = 1e3 * rng.normal(size=(2, 4)).astype(np.float32)
    both = {"rewards": np.stack([small, large], -1), "reward_weights": np.ones(2, np.float32)}
    result = np.asarray(compat.recipe("trl-1.16", "gdpo")(both))
    swapped = {**both, "rewards": np.stack([1e3 * small, 1e-3 * large], -1)}
    near(compat.recipe("trl-1.16", "gdpo")(swapped), result, 2e-3)
    summed = compat.recipe("trl-1.16", "group_relative")({"rewards": small + large})
    assert np.abs(np.asarray(summed) - result).max() > 0.1


def test_ppo_score_is_in_the_slot_after_the_answer():
    """TRL 1.12: one slot after EOS, which has a value too; at the last token if there is none."""
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1]])
    zeros = np.zeros((2, 4), np.float32)
    arrays = {"old_logprobs": zeros, "reference_logprobs": zeros - 1, "mask": mask}
    scored = {**arrays, "scores": np.array([5.0, 7.0], np.float32)}
    rewards = compat.recipe("trl-1.12", "rewards")(scored, kl_weight=0.1)
    near(rewards, [[-0.1, -0.1, 5, 0], [-0.1, -0.1, -0.1, 6.9]])
    values = {"values": zeros + 1, "old_values": zeros + 1, "returns": zeros, "mask": mask}
    result = terms("trl-1.12", "value_clip", values)["value"]
    assert result.weight == 3 + 4
    near(result.value, 0.1 * 0.5)
    returns = compat.recipe("trl-1.12", "returns")(
        {"rewards": rewards, "values": zeros, "mask": mask}, decay=1.0
    )
    near(returns[0], [4.8, 4.9, 5, 0])


def test_padding_changes_nothing_in_minillm():
    """TRL 1.13 takes every slot of the batch: more padding, another loss."""
    rng = np.random.default_rng(0)
    logits = {f"{side}_logits": rng.normal(size=(2, 4, 3)) for side in ("student", "teacher")}
    logprobs = {name: -rng.exponential(size=(2, 4)) for name in ("logprobs", "teacher_logprobs")}
    arrays = {k: x.astype(np.float32) for k, x in {**logits, **logprobs}.items()}
    arrays["mask"] = np.array([[1, 1, 1, 0], [1, 1, 0, 0]])
    wider = {
        k: np.concatenate([x, 0 * x if k == "mask" else x + 1], axis=1) for k, x in arrays.items()
    }
    near(value("trl-1.13", "minillm", wider), value("trl-1.13", "minillm", arrays))
    recipe = compat.recipe("trl-1.13", "minillm_advantages")
    for options in ({}, {"discount": 0.9}, {"discount": 0.9, "length_normalise": False}):
        near(recipe(wider, **options)[:, :4], recipe(arrays, **options))
    constant = {**arrays, "teacher_logprobs": arrays["logprobs"] + 0.5}
    near(recipe(constant, discount=0.9), 0.5 * arrays["mask"])  # a mean of equal numbers


def test_xpo_takes_the_pair_in_its_order():
    rng = np.random.default_rng(0)
    names = ["logprobs", "reference_logprobs", "other_logprobs", "reference_other_logprobs"]
    arrays = {name: -rng.exponential(size=(B, T)).astype(np.float32) for name in names}
    arrays |= {"mask": MASK, "other_mask": MASK[::-1], "preferred": np.array([1, 0] * 3)}
    a = ((arrays["logprobs"] - arrays["reference_logprobs"]) * MASK).sum(-1)
    b = ((arrays["other_logprobs"] - arrays["reference_other_logprobs"]) * MASK[::-1]).sum(-1)
    own = (arrays["other_logprobs"] * MASK[::-1]).sum(-1)
    sign = 2 * arrays["preferred"] - 1
    want = np.logaddexp(0, -0.7 * sign * (a - b)) + 0.2 * own
    near(value("trl-1.13", "xpo", arrays, beta=0.7, optimism=0.2), want.mean(), 1e-5)


def test_missing_arrays_and_unknown_options_are_named():
    arrays = batch()
    with pytest.raises(ValueError, match=r"advantages must be among the arrays of trl-1\.16 grpo"):
        value("trl-1.16", "grpo", {k: x for k, x in arrays.items() if k != "advantages"})
    with pytest.raises(ValueError, match=r"option of trl-1\.16 gmpo"):
        value("trl-1.16", "gmpo", arrays, level="token")
    with pytest.raises(ValueError, match="level must be"):
        value("trl-1.16", "grpo", arrays, level="word")
