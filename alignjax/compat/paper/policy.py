"""Policy-gradient losses as their papers state them, and the advantages that go with them.

rho: pi / old of a token; s: of a response, to the power 1 / |y|; A: the advantage.
"""

from typing import Any

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat import policy
from alignjax.compat.recipe import Arrays, Recipe, Terms

CLIP = {"clip_low": 0.2, "clip_high": 0.2}
SEQUENCE_CLIP = {"clip_low": 3e-4, "clip_high": 4e-4}
CLIPPED = "-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A)"


def _reinforce(arrays: Arrays) -> Terms:
    given = (arrays[name] for name in ("logprobs", "advantages", "mask"))
    return {"policy": policy.row_sum(losses.reinforce(*given), arrays)}


def _rloo(arrays: Arrays) -> Terms:
    given = (arrays[name] for name in ("logprobs", "advantages", "mask"))
    return {"policy": policy.over_rows(losses.rloo(*given), arrays)}


def _grpo(arrays: Arrays, *, kl_weight: float, **clip: Any) -> Terms:
    found = policy.row_mean(policy.clipped(arrays, **clip), arrays)
    return {"policy": found, **policy.kl_term(arrays, policy.row_mean, weight=kl_weight)}


def _dr_grpo(arrays: Arrays, *, length: float, **clip: Any) -> Terms:
    return {"policy": policy.row_fixed(length)(policy.clipped(arrays, **clip), arrays)}


def _dapo_per_prompt(arrays: Arrays, *, group_size: int, **clip: Any) -> Terms:
    return {"policy": policy.group_mean(group_size)(policy.clipped(arrays, **clip), arrays)}


def _clip_cov(arrays: Arrays, **options: Any) -> Terms:
    found = losses.clip_cov(*policy.inputs(arrays), arrays["key"], **options)
    return {"policy": policy.token_mean(found, arrays)}


def _vespo(arrays: Arrays, **options: Any) -> Terms:
    found = losses.vespo(*policy.inputs(arrays), None, **options)
    return {"policy": policy.token_mean(found, arrays)}


LOSSES = {
    "reinforce": Recipe(
        compute=_reinforce,
        formula="-A log pi; summed over tokens, mean over rows",
        source="Williams 1992",
    ),
    "ppo_clip": Recipe(
        compute=policy.token_recipe(losses.ppo_clip),
        formula=f"{CLIPPED}, at most -dual_clip A for A < 0; mean over all tokens",
        source="Schulman et al. 2017, eq. 7; dual clip: Ye et al. 2020, eq. 5",
        defaults={**CLIP, "dual_clip": None},
    ),
    "value_clip": Recipe(
        compute=policy.value_recipe,
        formula="weight max((V - R)^2, (V_old + clip(V - V_old, -clip, clip) - R)^2) / 2; "
        "mean over all tokens",
        source="Schulman et al. 2017, section 5; Huang et al. 2022, detail 9",
        defaults={"clip": 0.2, "weight": 1.0},
    ),
    "grpo": Recipe(
        compute=_grpo,
        formula=f"{CLIPPED} + kl_weight k3; mean over each row's tokens, then rows",
        source="Shao et al. 2024, eq. 3",
        defaults={**CLIP, "kl_weight": 0.04},
    ),
    "dr_grpo": Recipe(
        compute=_dr_grpo,
        formula=f"{CLIPPED}; summed over each row's tokens / length, then mean over rows",
        source="Liu et al. 2025, section 3.2",
        defaults={**CLIP, "length": 3000.0},
    ),
    "dapo": Recipe(
        compute=policy.token_recipe(losses.dapo),
        formula=f"{CLIPPED}; mean over all tokens of the batch",
        source="Yu et al. 2025, eq. 10, averaged as implementations do",
        defaults={"clip_low": 0.2, "clip_high": 0.28},
    ),
    "dapo_per_prompt": Recipe(
        compute=_dapo_per_prompt,
        formula=f"{CLIPPED}; mean over all tokens of a prompt's group_size rows, then prompts",
        source="Yu et al. 2025, eq. 8",
        defaults={"clip_low": 0.2, "clip_high": 0.28, "group_size": 16},
    ),
    "bnpo": Recipe(
        compute=policy.token_recipe(losses.bnpo),
        formula=f"{CLIPPED}; mean over all tokens of the batch (TRL: of the micro-batch)",
        source="the name is TRL's",
        defaults=CLIP,
    ),
    "cispo": Recipe(
        compute=policy.token_recipe(losses.cispo),
        formula="-sg(clip(rho, minimum_ratio, maximum_ratio)) A log pi; mean over all tokens",
        source="MiniMax 2025 (M1), eqs. 4 and 5; the bound is ours",
        defaults={"maximum_ratio": 5.0, "minimum_ratio": 0.0},
    ),
    "gspo": Recipe(
        compute=policy.token_recipe(losses.gspo, policy.over_rows),
        formula="-min(s A, clip(s, 1 - clip_low, 1 + clip_high) A); mean over rows",
        source="Zheng et al. 2025, eq. 5",
        defaults=SEQUENCE_CLIP,
    ),
    "gspo_token": Recipe(
        compute=policy.token_recipe(losses.gspo_token, policy.row_mean),
        formula="as gspo with sg(s) pi / sg(pi) for s; mean over each row's tokens, then rows",
        source="Zheng et al. 2025, eq. 13",
        defaults=SEQUENCE_CLIP,
    ),
    "sapo": Recipe(
        compute=policy.token_recipe(losses.sapo, policy.row_mean),
        formula="-A (4/tau) sig(tau (rho - 1)); mean over each row's tokens, then rows",
        source="Gao et al. 2025 (arXiv 2511.20347)",
        defaults={"positive_temperature": 1.0, "negative_temperature": 1.05},
    ),
    "gmpo": Recipe(
        compute=policy.token_recipe(losses.gmpo, policy.over_rows),
        formula="-A exp(mean over tokens of clipped log rho); mean over rows",
        source="Zhao et al. 2025 (arXiv 2507.20673)",
        defaults={"clip_low": 0.4, "clip_high": 0.4},
    ),
    "luspo": Recipe(
        compute=policy.token_recipe(losses.luspo, policy.over_rows),
        formula="|y| times the loss of gspo; mean over rows",
        source="arXiv 2602.05261",
        defaults=SEQUENCE_CLIP,
    ),
    "vespo": Recipe(
        compute=_vespo,
        formula="-sg(w^k exp(lam (1 - w))) A log pi, w = pi(y) / old(y); mean over all tokens",
        source="Shen et al. 2026 (arXiv 2602.10693)",
        defaults={"positive": (2.0, 3.0), "negative": (3.0, 2.0)},
    ),
    "rloo": Recipe(
        compute=_rloo,
        formula="-A log pi(y); mean over rows",
        source="Ahmadian et al. 2024",
    ),
    "rloo_clip": Recipe(
        compute=policy.token_recipe(losses.rloo_clip, policy.over_rows),
        formula="-min(R A, clip(R, 1 - clip_low, 1 + clip_high) A), R = pi(y) / old(y); "
        "mean over rows",
        source="PPO's clip on the responses of Ahmadian et al. 2024",
        defaults=CLIP,
    ),
    "clip_cov": Recipe(
        compute=_clip_cov,
        formula=f"{CLIPPED}, without gradient on a random share of tokens with covariance in "
        "[minimum, maximum]; mean over all tokens",
        source="Cui et al. 2025 (arXiv 2505.22617)",
        defaults={
            "fraction": 2e-4,
            "minimum": 1.0,
            "maximum": 5.0,
            "clip_low": 1.0,
            "clip_high": 1.0,
        },
    ),
    "kl_cov": Recipe(
        compute=policy.token_recipe(losses.kl_cov),
        formula="-rho A + penalty |log rho| on the tokens of highest covariance; "
        "mean over all tokens",
        source="Cui et al. 2025 (arXiv 2505.22617)",
        defaults={"fraction": 2e-4, "penalty": 1.0},
    ),
}


def _counted(arrays: Arrays) -> Any:
    """[B, N]: rewards that are there."""
    return policy.valid(arrays["rewards"])


def _group_relative(arrays: Arrays, **options: Any) -> jax.Array:
    return losses.group_relative(arrays["rewards"], _counted(arrays), **options)


def _leave_one_out(arrays: Arrays) -> jax.Array:
    return losses.leave_one_out(arrays["rewards"], _counted(arrays))


def _gae(arrays: Arrays, *, discount: float, decay: float) -> jax.Array:
    given = (arrays[name] for name in ("rewards", "values", "mask"))
    return losses.gae(*given, discount=discount, decay=decay)[0]


def _whiten(arrays: Arrays, **options: Any) -> jax.Array:
    return losses.whiten(arrays["advantages"], arrays["mask"], **options)


def _gdpo(arrays: Arrays, *, eps: float) -> jax.Array:
    there = jnp.all(policy.valid(arrays["rewards"]), axis=-1)
    return losses.gdpo(arrays["rewards"], arrays["reward_weights"], there, eps=eps)


def _reinforce_plus_plus(arrays: Arrays, **options: Any) -> jax.Array:
    return losses.reinforce_plus_plus(arrays["rewards"], arrays["mask"], **options)


def _reinforce_plus_plus_baseline(arrays: Arrays, *, eps: float) -> jax.Array:
    return losses.reinforce_plus_plus_baseline(arrays["rewards"], _counted(arrays), eps=eps)


# Rewards [B, N] of N samples of B prompts, NaN where missing; [B, T] of tokens for gae and
# reinforce_plus_plus.
ADVANTAGES = {
    "group_relative": Recipe(
        compute=_group_relative,
        formula="(r - mean) / (std + eps) over the samples of a prompt",
        source="Shao et al. 2024, section 4.1.2; scale=False: Liu et al. 2025",
        defaults={"scale": True, "eps": 1e-4, "unbiased": True, "spread": "group"},
    ),
    "leave_one_out": Recipe(
        compute=_leave_one_out,
        formula="r - mean of the prompt's other samples",
        source="Ahmadian et al. 2024",
    ),
    "gae": Recipe(
        compute=_gae,
        formula="sum over l of (discount decay)^l delta_{t+l}",
        source="Schulman et al. 2016, eq. 16",
        defaults={"discount": 1.0, "decay": 0.95},
    ),
    "whiten": Recipe(
        compute=_whiten,
        formula="(A - mean) / sqrt(variance + eps) over all tokens",
        source="Huang et al. 2024",
        defaults={"shift_mean": True, "eps": 1e-8, "unbiased": False},
    ),
    "gdpo": Recipe(
        compute=_gdpo,
        formula="sum over rewards of weight (r - mean) / (std + eps), whitened over the batch",
        source="Liu et al. 2026 (arXiv 2601.05242)",
        defaults={"eps": 1e-4},
    ),
    "reinforce_plus_plus": Recipe(
        compute=_reinforce_plus_plus,
        formula="returns to go, whitened over all tokens",
        source="Hu 2025 (arXiv 2501.03262)",
        defaults={"discount": 1.0, "eps": 1e-8},
    ),
    "reinforce_plus_plus_baseline": Recipe(
        compute=_reinforce_plus_plus_baseline,
        formula="r - mean of the prompt's samples, whitened over the batch",
        source="Hu 2025 (arXiv 2501.03262)",
        defaults={"eps": 1e-8},
    ),
    "remax": Recipe(
        compute=lambda arrays: losses.remax(arrays["rewards"], arrays["greedy_rewards"]),
        formula="r - r of the greedy answer",
        source="Li et al. 2024 (arXiv 2310.10505)",
    ),
    "gpg": Recipe(
        compute=lambda arrays: losses.gpg(arrays["rewards"], _counted(arrays)),
        formula="(r - mean) prompts / prompts whose rewards differ",
        source="Chu et al. 2025 (arXiv 2504.02546)",
    ),
}
RECIPES = {**LOSSES, **ADVANTAGES}
