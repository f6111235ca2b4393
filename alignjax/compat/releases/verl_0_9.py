"""verl 0.9: losses and advantages of trainer/ppo/core_algos.py, defaults of its configurations."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat import policy, rollouts
from alignjax.compat.recipe import Arrays, Recipe, Terms
from alignjax.core import mean, shapes
from alignjax.losses import inputs

KL_CAP = 10.0  # nats per token, of k3 alone
CORE = "trainer/ppo/core_algos.py"


# --- losses ---
def _share(fraction: float, arrays: Arrays) -> Any:
    """`fraction` of the counted tokens as a whole number of them, rounded down, at least 1."""
    number = inputs.count(jnp.asarray(arrays["mask"]) != 0, (0, 1))
    return jnp.maximum(jnp.floor(fraction * number), 1.0) / number


def _clip_cov(arrays: Arrays, *, fraction: float, reduction: str, **options: Any) -> Terms:
    share = _share(fraction, arrays)
    found = losses.clip_cov(*policy.inputs(arrays), arrays["key"], fraction=share, **options)
    found = rollouts.weighted(found, arrays)
    return {"loss": rollouts.reduced(found, arrays, reduction=reduction)}


def _kl_cov(arrays: Arrays, *, fraction: float, reduction: str, **options: Any) -> Terms:
    found = losses.kl_cov(*policy.inputs(arrays), fraction=_share(fraction, arrays), **options)
    found = rollouts.weighted(found, arrays)
    return {"loss": rollouts.reduced(found, arrays, reduction=reduction)}


def _gmpo(arrays: Arrays, **options: Any) -> Terms:
    logprobs, old, advantages, mask = policy.inputs(arrays)
    per_row = losses.gmpo(logprobs, old, losses.score_mean(advantages, mask), mask, **options)
    every = arrays["row_mask"] if "row_mask" in arrays else jnp.ones_like(per_row)
    return {"loss": mean.masked(per_row, every)}  # verl counts rows without a token as well


def _cispo(*given: jax.Array, clip_low: float, clip_high: float) -> jax.Array:
    return losses.cispo(*given, minimum_ratio=1.0 - clip_low, maximum_ratio=1.0 + clip_high)


def _dro(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array,
    *,
    beta: float,
) -> jax.Array:
    shapes.check_number("beta", beta, above=0)
    drift = losses.k2(logprobs, old_logprobs, mask)
    return losses.reinforce(logprobs, advantages, mask) + beta * drift


def _kl_loss(
    arrays: Arrays,
    *,
    weight: float,
    estimator: str,
    exact_gradient: bool,
    reduction: str,
    length: float | None,
) -> Terms:
    cap = KL_CAP if estimator == "k3" else None
    values = rollouts.kl_values(arrays, estimator=estimator, cap=cap, exact_gradient=exact_gradient)
    term = rollouts.reduced(values, arrays, reduction=reduction, length=length)
    return {"kl": policy.scaled(term, weight)}


def _kl_penalty(arrays: Arrays, *, estimator: str) -> jax.Array:
    cap = KL_CAP if estimator == "k3" else None
    return rollouts.kl_penalty(arrays, estimator=estimator, cap=cap)


def _sampler_weight(arrays: Arrays, **options: Any) -> jax.Array:
    given = policy.old_logprobs(arrays), arrays["sampler_logprobs"], arrays["mask"]
    return losses.sampler_weight(*given, **options)


# --- advantages ---
def _reinforce_plus_plus(arrays: Arrays, *, discount: float) -> jax.Array:
    mask = arrays["mask"]
    returns = losses.discounted_returns(arrays["rewards"], mask, discount=discount)
    return losses.whiten(returns, mask, unbiased=True)


def _over_tokens(per_sample: Callable[..., jax.Array], *names: str) -> Callable[..., jax.Array]:
    """[B, T]: per_sample(*arrays, **options) [P, N] at every token, whitened over all tokens."""

    def compute(arrays: Arrays, **options: Any) -> jax.Array:
        mask = arrays["mask"]
        found = per_sample(*[arrays[name] for name in names], **options)
        return losses.whiten(rollouts.over_tokens(found, mask), mask, unbiased=True)

    return compute


def _remax(arrays: Arrays) -> jax.Array:
    mask = arrays["mask"]
    to_go = losses.discounted_returns(arrays["rewards"], mask, discount=1.0)
    greedy = rollouts.over_tokens(arrays["greedy_rewards"], mask)
    return jnp.reshape(losses.remax(to_go.reshape(-1), greedy.reshape(-1)), to_go.shape)


CLIP = {"clip_low": 0.2, "clip_high": 0.2}
REDUCE = {"reduction": "token_mean", "length": None}


def _surrogate(loss: Callable[..., jax.Array], formula: str, name: str, **options: Any) -> Recipe:
    """A token loss that is reduced by name."""
    return Recipe(
        compute=rollouts.surrogate(loss),
        formula=f"{formula}; times token_weights if given; mean by `reduction`",
        source=f"{CORE}, policy_loss {name!r}",
        defaults={**options, **REDUCE},
    )


def _advantages(compute: Callable[..., Any], formula: str, name: str, **options: Any) -> Recipe:
    return Recipe(
        compute=compute,
        formula=formula,
        source=f"{CORE}, adv_estimator {name}",
        defaults=options,
    )


LOSSES = {
    "ppo_clip": _surrogate(
        losses.ppo_clip,
        "-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A), at most -dual_clip A for A < 0",
        "vanilla",
        **CLIP,
        dual_clip=3.0,
    ),
    "gspo_token": _surrogate(
        losses.gspo_token,
        "PPO's clip of sg(s) pi / sg(pi)",
        "gspo",
        **CLIP,
    ),
    "sapo": Recipe(
        compute=lambda arrays, **options: rollouts.surrogate(losses.sapo)(
            arrays, reduction="row_mean", **options
        ),
        formula="-A (4 / tau) sig(tau (rho - 1)), tau by the sign of A; times token_weights if "
        "given; mean over tokens of each row, then rows",
        source=f"{CORE}, policy_loss 'sapo'",
        defaults={"positive_temperature": 1.0, "negative_temperature": 1.05},
    ),
    "cispo": _surrogate(
        _cispo, "-sg(clip(rho, 1 - clip_low, 1 + clip_high)) A log pi", "cispo", **CLIP
    ),
    "dro": _surrogate(_dro, "-A log pi + beta (log pi - log old)^2 / 2", "dro", beta=None),
    "reinforce": Recipe(
        compute=rollouts.reinforce,
        formula="-A log pi; times token_weights if given; mean by `reduction`",
        source=f"{CORE}, policy_loss 'gpg'; compute_policy_loss_reinforce",
        defaults=REDUCE,
    ),
    "clip_cov": Recipe(
        compute=_clip_cov,
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
        compute=_kl_cov,
        formula="-rho A, plus penalty |log rho| on the share of tokens of largest covariance; "
        "mean by `reduction`",
        source=f"{CORE}, policy_loss 'kl_cov'",
        defaults={"fraction": 2e-4, "penalty": 0.1, "reduction": "token_mean"},
    ),
    "gmpo": Recipe(
        compute=_gmpo,
        formula="-A exp(mean over tokens of the clipped log rho); mean over all rows",
        source=f"{CORE}, policy_loss 'geo_mean'",
        defaults=CLIP,
    ),
    "value_clip": Recipe(
        compute=rollouts.value_clip,
        formula="max((V - R)^2, (clip(V, V_old -+ clip) - R)^2) / 2; mean by `reduction`",
        source=f"{CORE}, compute_value_loss",
        defaults={"clip": 0.5, **REDUCE},
    ),
    "entropy_bonus": Recipe(
        compute=rollouts.entropy_bonus,
        formula="-entropy; mean by `reduction` (verl subtracts the entropy itself)",
        source=f"{CORE}, compute_entropy_loss",
        defaults=REDUCE,
    ),
    "kl_loss": Recipe(
        compute=_kl_loss,
        formula="weight * KL to the reference by `estimator`, k3 within +-10 nats, with the "
        "gradient of k2 if `exact_gradient` (verl's '+'); mean by `reduction`; k1 without it is "
        "refused",
        source=f"{CORE}, kl_penalty",
        defaults={"weight": 0.001, "estimator": "k3", "exact_gradient": False, **REDUCE},
    ),
}

OTHERS = {
    "kl_penalty": Recipe(
        compute=_kl_penalty,
        formula="KL to the reference per token by `estimator`, k3 within +-10 nats, no gradient",
        source=f"{CORE}, kl_penalty; trainer/ppo/ray_trainer.py",
        defaults={"estimator": "k1"},
    ),
    "adaptive_kl": Recipe(
        compute=rollouts.adaptive_kl,
        formula="coefficient (1 + clip(observed / target - 1, -0.2, 0.2) samples / horizon)",
        source=f"{CORE}, AdaptiveKLController",
        defaults={"target": 0.1, "horizon": 10000.0},
    ),
    "sampler_weight": Recipe(
        compute=_sampler_weight,
        formula="exp(log p_trainer - log p_sampler) of the token or summed over the response, cut "
        "at or dropped outside of the bounds",
        source="trainer/ppo/rollout_corr_helper.py, compute_rollout_correction_weights",
        defaults={"level": "sequence", "beyond": "truncate", "maximum": 2.0, "minimum": None},
    ),
    "gae": _advantages(
        rollouts.gae,
        "sum over l of (discount decay)^l delta_{t+l}, whitened over all tokens (variance over "
        "n - 1)",
        "gae",
        discount=1.0,
        decay=1.0,
    ),
    "returns": _advantages(
        rollouts.returns,
        "the advantages of gae before they are whitened, + V",
        "gae",
        discount=1.0,
        decay=1.0,
    ),
    "group_relative": _advantages(
        rollouts.group_relative,
        "(r - mean) / (std + eps) of the group, or r - mean unless `scale`, [P, N]",
        "grpo, grpo_vectorized",
        scale=True,
        eps=1e-6,
    ),
    "leave_one_out": _advantages(
        rollouts.leave_one_out, "r - mean of the others, [P, N]", "rloo, rloo_vectorized"
    ),
    "reinforce_plus_plus": _advantages(
        _reinforce_plus_plus,
        "discounted returns of token rewards, whitened over all tokens, [B, T]",
        "reinforce_plus_plus",
        discount=1.0,
    ),
    "reinforce_plus_plus_baseline": _advantages(
        _over_tokens(lambda r: losses.group_relative(r, scale=False), "rewards"),
        "r - mean of the group, whitened over all tokens, [B, T]",
        "reinforce_plus_plus_baseline",
    ),
    "gdpo": _advantages(
        _over_tokens(losses.gdpo, "rewards", "reward_weights"),
        "each of K rewards relative to its group, summed with weights, whitened over all tokens, "
        "[B, T]",
        "gdpo",
        eps=1e-6,
    ),
    "remax": _advantages(
        _remax, "sum of token rewards from there on, minus the greedy answer's, [B, T]", "remax"
    ),
    "gpg": _advantages(
        lambda arrays: losses.gpg(arrays["rewards"]),
        "(r - mean) groups / groups with unequal rewards, [P, N]",
        "gpg",
    ),
}

RECIPES = {**LOSSES, **OTHERS}
