"""verl 0.9: losses and advantages of trainer/ppo/core_algos.py, defaults of its configurations."""

from typing import Any

from alignjax.compat.recipe import Recipe

CORE = "trainer/ppo/core_algos.py"
CLIP: dict[str, Any] = {"clip_low": 0.2, "clip_high": 0.2}
REDUCE: dict[str, Any] = {"reduction": "token_mean", "length": None}


def _surrogate(
    link: str, formula: str, name: str, *, score: str = "token", **numbers: Any
) -> Recipe:
    """A token loss that is reduced by name."""
    return Recipe(
        table="rollouts",
        score=score,
        link=link,
        weight="token_weights",
        reduction="token_mean",
        defaults={**numbers, **REDUCE},
        reads=frozenset({"advantages"}),
        optional=frozenset({"old", "token_weights"}),
        formula=f"{formula}; times token_weights if given; mean by `reduction`",
        source=f"{CORE}, policy_loss {name!r}",
    )


def _advantages(
    link: str,
    formula: str,
    name: str,
    *,
    reduction: str = "",
    reads: tuple[str, ...] = (),
    **numbers: Any,
) -> Recipe:
    """An estimator of advantages."""
    return Recipe(
        table="estimates",
        score="rewards",
        link=link,
        reduction=reduction,
        defaults=numbers,
        reads=frozenset({"rewards", *reads}),
        formula=formula,
        source=f"{CORE}, adv_estimator {name}",
    )


LOSSES = {
    "ppo_clip": _surrogate(
        "ppo_clip",
        "-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A), at most -dual_clip A for A < 0",
        "vanilla",
        **CLIP,
        dual_clip=3.0,
    ),
    "gspo_token": _surrogate(
        "ppo_clip",
        "PPO's clip of sg(s) pi / sg(pi)",
        "gspo",
        score="sequence_token",
        **CLIP,
    ),
    "sapo": Recipe(
        table="rollouts",
        score="token",
        link="sapo",
        weight="token_weights",
        reduction="row_mean",
        reads=frozenset({"advantages"}),
        optional=frozenset({"old", "token_weights"}),
        formula="-A (4 / tau) sig(tau (rho - 1)), tau by the sign of A; times token_weights if "
        "given; mean over tokens of each row, then rows",
        source=f"{CORE}, policy_loss 'sapo'",
        defaults={"positive_temperature": 1.0, "negative_temperature": 1.05},
    ),
    "cispo": _surrogate(
        "cispo_around_1", "-sg(clip(rho, 1 - clip_low, 1 + clip_high)) A log pi", "cispo", **CLIP
    ),
    "dro": _surrogate("dro", "-A log pi + beta (log pi - log old)^2 / 2", "dro", beta=None),
    "reinforce": Recipe(
        table="rollouts",
        link="reinforce",
        weight="token_weights",
        reduction="token_mean",
        reads=frozenset({"advantages"}),
        optional=frozenset({"token_weights"}),
        formula="-A log pi; times token_weights if given; mean by `reduction`",
        source=f"{CORE}, policy_loss 'gpg'; compute_policy_loss_reinforce",
        defaults=REDUCE,
    ),
    "clip_cov": Recipe(
        table="rollouts",
        score="token",
        link="clip_cov_whole_tokens",
        weight="token_weights",
        reduction="token_mean",
        reads=frozenset({"advantages", "key"}),
        optional=frozenset({"old", "token_weights"}),
        coupled=True,
        formula="-min(rho A, clip(rho, ...) A), detached on a drawn share of the tokens whose "
        "covariance lies in [minimum, maximum]; mean by `reduction`",
        source=f"{CORE}, policy_loss 'clip_cov'",
        defaults={
            **CLIP,
            "fraction": 2e-4,
            "minimum": 1.0,
            "maximum": 5.0,
            "reduction": "token_mean",
        },
    ),
    "kl_cov": Recipe(
        table="rollouts",
        score="token",
        link="kl_cov_whole_tokens",
        weight="token_weights",
        reduction="token_mean",
        reads=frozenset({"advantages"}),
        optional=frozenset({"old", "token_weights"}),
        coupled=True,
        formula="-rho A, plus penalty |log rho| on the share of tokens of largest covariance; "
        "mean by `reduction`",
        source=f"{CORE}, policy_loss 'kl_cov'",
        defaults={"fraction": 2e-4, "penalty": 0.1, "reduction": "token_mean"},
    ),
    "gmpo": Recipe(
        table="rollouts",
        score="response",
        link="gmpo",
        reduction="every_row_mean",
        reads=frozenset({"advantages"}),
        optional=frozenset({"old"}),
        formula="-A exp(mean over tokens of the clipped log rho); mean over all rows",
        source=f"{CORE}, policy_loss 'geo_mean'",
        defaults=CLIP,
    ),
    "value_clip": Recipe(
        table="rollouts",
        link="value_clip",
        reduction="token_mean",
        reads=frozenset({"values", "old_values", "returns"}),
        formula="max((V - R)^2, (clip(V, V_old -+ clip) - R)^2) / 2; mean by `reduction`",
        source=f"{CORE}, compute_value_loss",
        defaults={"clip": 0.5, **REDUCE},
    ),
    "entropy_bonus": Recipe(
        table="rollouts",
        link="entropy",
        reduction="token_mean",
        term="entropy",
        reads=frozenset({"entropy"}),
        formula="-entropy; mean by `reduction` (verl subtracts the entropy itself)",
        source=f"{CORE}, compute_entropy_loss",
        defaults=REDUCE,
    ),
    "kl_loss": Recipe(
        table="rollouts",
        score="token",
        link="kl_with_k3_cut",
        reduction="token_mean",
        term="kl",
        reads=frozenset({"reference"}),
        formula="weight * KL to the reference by `estimator`, k3 within +-10 nats, with the "
        "gradient of k2 if `exact_gradient` (verl's '+'); mean by `reduction`; k1 without it is "
        "refused",
        source=f"{CORE}, kl_penalty",
        defaults={"weight": 0.001, "estimator": "k3", "exact_gradient": False, **REDUCE},
    ),
}

OTHERS = {
    "kl_penalty": Recipe(
        table="estimates",
        link="kl_penalty_with_k3_cut",
        reads=frozenset({"reference"}),
        formula="KL to the reference per token by `estimator`, k3 within +-10 nats, no gradient",
        source=f"{CORE}, kl_penalty; trainer/ppo/ray_trainer.py",
        defaults={"estimator": "k1"},
    ),
    "adaptive_kl": Recipe(
        table="estimates",
        link="adaptive_kl",
        reads=frozenset({"coefficient"}),
        formula="coefficient (1 + clip(observed / target - 1, -0.2, 0.2) samples / horizon)",
        source=f"{CORE}, AdaptiveKLController",
        defaults={"target": 0.1, "horizon": 10000.0},
    ),
    "sampler_weight": Recipe(
        table="estimates",
        link="sampler_weight",
        reads=frozenset({"sampler"}),
        optional=frozenset({"old"}),
        formula="exp(log p_trainer - log p_sampler) of the token or summed over the response, cut "
        "at or dropped outside of the bounds",
        source="trainer/ppo/rollout_corr_helper.py, compute_rollout_correction_weights",
        defaults={"level": "sequence", "beyond": "truncate", "maximum": 2.0, "minimum": None},
    ),
    "gae": _advantages(
        "gae",
        "sum over l of (discount decay)^l delta_{t+l}, whitened over all tokens (variance over "
        "n - 1)",
        "gae",
        reduction="whitening_unbiased",
        reads=("values",),
        discount=1.0,
        decay=1.0,
    ),
    "returns": _advantages(
        "returns",
        "the advantages of gae before they are whitened, + V",
        "gae",
        reads=("values",),
        discount=1.0,
        decay=1.0,
    ),
    "group_relative": _advantages(
        "group_relative",
        "(r - mean) / (std + eps) of the group, or r - mean unless `scale`, [P, N]",
        "grpo, grpo_vectorized",
        scale=True,
        eps=1e-6,
    ),
    "leave_one_out": _advantages(
        "leave_one_out", "r - mean of the others, [P, N]", "rloo, rloo_vectorized"
    ),
    "reinforce_plus_plus": _advantages(
        "to_go",
        "discounted returns of token rewards, whitened over all tokens, [B, T]",
        "reinforce_plus_plus",
        reduction="whitening_unbiased",
        discount=1.0,
    ),
    "reinforce_plus_plus_baseline": _advantages(
        "group_baseline",
        "r - mean of the group, whitened over all tokens, [B, T]",
        "reinforce_plus_plus_baseline",
        reduction="whitening_over_tokens",
    ),
    "gdpo": _advantages(
        "gdpo",
        "each of K rewards relative to its group, summed with weights, whitened over all tokens, "
        "[B, T]",
        "gdpo",
        reduction="whitening_over_tokens",
        reads=("reward_weights",),
        eps=1e-6,
    ),
    "remax": _advantages(
        "remax_to_go",
        "sum of token rewards from there on, minus the greedy answer's, [B, T]",
        "remax",
        reads=("greedy_rewards",),
    ),
    "gpg": _advantages(
        "gpg",
        "(r - mean) groups / groups with unequal rewards, [P, N]",
        "gpg",
    ),
}

RECIPES = {**LOSSES, **OTHERS}
