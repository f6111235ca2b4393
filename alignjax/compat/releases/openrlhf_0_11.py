"""OpenRLHF 0.11: losses of models/loss.py, advantages of trainer/ppo_utils/experience_maker.py."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat import pairs, policy, rollouts
from alignjax.compat.recipe import Arrays, Recipe, Terms
from alignjax.core import mean, shapes

KL_CAP = 10.0  # nats per token
MAXIMUM_RATIO = 10.0  # of the KL whose gradient is exact


# --- pairs and reward models ---
def _on_ratios(link: Callable[..., jax.Array]) -> Callable[..., Terms]:
    """Of log-ratios summed over tokens; plus the chosen answers' NLL, averaged in each."""

    def compute(arrays: Arrays, *, nll_weight: float, **options: float) -> Terms:
        terms = pairs.reduced(link(*pairs.log_ratios(arrays), **options), arrays)
        if nll_weight == 0.0:
            return terms
        chosen = pairs.means(arrays)[0]
        return {**terms, "nll": mean.masked(-nll_weight * chosen, pairs.pair_mask(arrays, chosen))}

    return compute


def _bradley_terry(arrays: Arrays) -> Terms:
    margin = {"margin": arrays["margin"]} if "margin" in arrays else {}
    loss = losses.bradley_terry(arrays["chosen_scores"], arrays["rejected_scores"], **margin)
    return pairs.reduced(loss, arrays)


def _token_nll(arrays: Arrays, *, reduction: str) -> Terms:
    per_token = losses.token_nll(arrays["token_logprobs"], arrays["mask"])
    return {"loss": rollouts.reduced(per_token, arrays, reduction=reduction)}


# --- policy and value ---
def _corrections(
    arrays: Arrays, *, level: str | None, beyond: str, minimum: float, maximum: float
) -> Any:
    """Weights against the sampler, [B, T]: the token's ratio, gated by the token's or by the
    geometric mean of the response's; 1 if level is None."""
    if level is None:
        return 1.0
    shapes.check_choice("correction", level, ("token", "sequence"))
    shapes.check_choice("beyond", beyond, ("drop", "truncate") if level == "token" else ("drop",))
    given = policy.old_logprobs(arrays), arrays["sampler_logprobs"], arrays["mask"]
    if level == "token":
        return losses.sampler_weight(
            *given, level=level, beyond=beyond, minimum=minimum, maximum=maximum
        )
    whole = losses.sequence_ratio(*given)[:, None]
    keep = (whole >= minimum) & (whole <= maximum)
    return jnp.where(keep, losses.sampler_weight(*given, level="token", maximum=None), 0.0)


def _ppo_clip(
    arrays: Arrays,
    *,
    reduction: str,
    correction: str | None,
    beyond: str,
    minimum: float,
    maximum: float,
    **options: Any,
) -> Terms:
    per_token = policy.clipped(arrays, **options)
    weight = _corrections(arrays, level=correction, beyond=beyond, minimum=minimum, maximum=maximum)
    per_token = per_token * jax.lax.stop_gradient(weight)
    return {"loss": rollouts.reduced(per_token, arrays, reduction=reduction)}


def _gspo(arrays: Arrays, *, correction: bool, **options: Any) -> Terms:
    old = "sampler_logprobs" if correction else "old_logprobs"
    given = arrays["logprobs"], arrays[old], arrays["advantages"], arrays["mask"]
    per_row = losses.gspo(*given, **options)
    return {"loss": losses.row_mean(policy.spread(per_row, arrays), arrays["mask"])}


def _kl_loss(
    arrays: Arrays, *, weight: float, estimator: str, exact_gradient: bool, reduction: str
) -> Terms:
    per_token = rollouts.kl_values(
        arrays,
        estimator=estimator,
        cap=KL_CAP,
        exact_gradient=exact_gradient,
        maximum_ratio=MAXIMUM_RATIO,
    )
    term = rollouts.reduced(per_token, arrays, reduction=reduction)
    return {"kl": policy.scaled(term, weight)}


# --- rewards and advantages ---
def _token_rewards(
    scores: jax.Array, arrays: Arrays, *, kl_weight: float, estimator: str, cap: float | None
) -> jax.Array:
    """[B, T]: the capped score at the last token, minus kl_weight * KL at every token."""
    rewards = rollouts.at_last_token(rollouts.within(scores, cap), arrays["mask"])
    if kl_weight == 0.0:
        return rewards
    return rewards - kl_weight * rollouts.kl_penalty(arrays, estimator=estimator, cap=KL_CAP)


def _normalised(x: jax.Array, mask: jax.Array, *, scale: bool) -> jax.Array:
    """Over all counted tokens: mean 0, and variance 1 if `scale`."""
    if scale:
        return losses.whiten(x, mask)
    flat = losses.group_relative(jnp.reshape(x, (1, -1)), jnp.reshape(mask, (1, -1)), scale=False)
    return jnp.reshape(flat, jnp.shape(x))


def _gae(
    arrays: Arrays, *, discount: float, decay: float, **options: Any
) -> tuple[jax.Array, jax.Array]:
    rewards = _token_rewards(arrays["rewards"], arrays, **options)
    given = rewards, arrays["values"], arrays["mask"]
    return losses.gae(*given, discount=discount, decay=decay)


def _gae_advantages(arrays: Arrays, *, normalise: bool, **options: Any) -> jax.Array:
    return _normalised(_gae(arrays, **options)[0], arrays["mask"], scale=normalise)


def _to_go(
    shape: Callable[..., jax.Array], *names: str, normalised: bool = False
) -> Callable[..., jax.Array]:
    """[B, T]: returns of shape(rewards [P, N], **options) with the KL of all tokens from there on.

    names: of the options that are those of `shape`.
    """

    def compute(
        arrays: Arrays, *, discount: float = 1.0, normalise: bool = True, **options: Any
    ) -> jax.Array:
        mask = arrays["mask"]
        shaped = shape(arrays["rewards"], **{name: options.pop(name) for name in names})
        rewards = _token_rewards(shaped, arrays, **options)
        found = losses.discounted_returns(rewards, mask, discount=discount)
        return _normalised(found, mask, scale=normalise) if normalised else found

    return compute


def _centred_in_batch(rewards: jax.Array) -> jax.Array:
    return losses.group_relative(jnp.reshape(rewards, (1, -1)), scale=False)


LOSS = "models/loss.py"
MAKER = "trainer/ppo_utils/experience_maker.py"
RATIOS = {"nll_weight": 0.0, "beta": 0.1}
CLIP = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": None}
REWARD = {"kl_weight": 0.01, "estimator": "k1", "cap": 10.0}
WITH_NLL = "plus nll_weight * mean over pairs of -log pi of the chosen answer per token"
TO_GO = "plus -kl_weight * KL, summed from the token on"


def _advantages(compute: Callable[..., Any], formula: str, name: str, **options: Any) -> Recipe:
    return Recipe(
        compute=compute,
        formula=formula,
        source=f"{MAKER}, estimator={name!r}",
        defaults={**REWARD, **options},
    )


RECIPES = {
    "dpo": Recipe(
        compute=_on_ratios(losses.dpo),
        formula="-(1-e) log sig(beta (a - b)) - e log sig(-beta (a - b)), e = label_smoothing; "
        f"mean over pairs; {WITH_NLL}",
        source=f"{LOSS}, DPOLoss; trainer/dpo_trainer.py",
        defaults={**RATIOS, "label_smoothing": 0.0},
    ),
    "ipo": Recipe(
        compute=_on_ratios(losses.ipo),
        formula=f"(a - b - 1/(2 beta))^2, a and b summed over tokens; mean over pairs; {WITH_NLL}",
        source=f"{LOSS}, DPOLoss with ipo; trainer/dpo_trainer.py",
        defaults=RATIOS,
    ),
    "bradley_terry": Recipe(
        compute=_bradley_terry,
        formula="-log sig(s_c - s_r - margin); mean over pairs",
        source=f"{LOSS}, PairWiseLoss, and LogExpLoss (no margin)",
    ),
    "token_nll": Recipe(
        compute=_token_nll,
        formula="-log pi; mean by `reduction`",
        source=f"{LOSS}, SFTLoss",
        defaults={"reduction": "token_mean"},
    ),
    "ppo_clip": Recipe(
        compute=_ppo_clip,
        formula="-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A), at most -dual_clip A for "
        "A < 0, times the weight against the sampler; mean by `reduction`",
        source=f"{LOSS}, PolicyLoss with policy_loss_type='ppo'",
        defaults={
            **CLIP,
            "reduction": "token_mean",
            "correction": None,
            "beyond": "drop",
            "minimum": 0.5,
            "maximum": 5.0,
        },
    ),
    "gspo": Recipe(
        compute=_gspo,
        formula="-min(s A, clip(s, 1 - clip_low, 1 + clip_high) A), s against the sampler with "
        "`correction`; mean over rows",
        source=f"{LOSS}, PolicyLoss with policy_loss_type='gspo'",
        defaults={**CLIP, "correction": False},
    ),
    "value_clip": Recipe(
        compute=rollouts.value_clip,
        formula="max((V - R)^2, (clip(V, V_old -+ clip) - R)^2) / 2; mean by `reduction`",
        source=f"{LOSS}, ValueLoss",
        defaults={"clip": 0.5, "reduction": "token_mean"},
    ),
    "kl_loss": Recipe(
        compute=_kl_loss,
        formula="weight * KL to the reference by `estimator`, within +-10 nats, with "
        "`exact_gradient` that of rho k2 (rho <= 10, detached); mean by `reduction`; k1 without "
        "it is refused",
        source="models/utils.py, compute_approx_kl; trainer/ray/ppo_actor.py",
        defaults={
            "weight": 0.01,
            "estimator": "k1",
            "exact_gradient": False,
            "reduction": "token_mean",
        },
    ),
    "adaptive_kl": Recipe(
        compute=rollouts.adaptive_kl,
        formula="coefficient (1 + clip(observed / target - 1, -0.2, 0.2) samples / horizon); "
        "coefficient if target is None",
        source="trainer/ppo_utils/kl_controller.py",
        defaults={"target": None, "horizon": 10000.0},
    ),
    "gae": _advantages(
        _gae_advantages,
        "sum over l of (discount decay)^l delta_{t+l} of token rewards, normalised over all tokens",
        "gae",
        discount=1.0,
        decay=1.0,
        normalise=True,
    ),
    "returns": _advantages(
        lambda arrays, **options: _gae(arrays, **options)[1],
        "the advantages of gae before they are normalised, + V",
        "gae",
        discount=1.0,
        decay=1.0,
    ),
    "reinforce_plus_plus": _advantages(
        _to_go(lambda r: r, normalised=True),
        f"score {TO_GO}, normalised over all tokens",
        "reinforce",
        discount=1.0,
        normalise=True,
    ),
    "reinforce_plus_plus_baseline": _advantages(
        _to_go(lambda r: losses.group_relative(r, scale=False), normalised=True),
        f"score minus the group's mean {TO_GO}, normalised over all tokens",
        "reinforce_baseline",
        normalise=True,
    ),
    "leave_one_out": _advantages(
        _to_go(losses.leave_one_out), f"score minus the mean of the others {TO_GO}", "rloo"
    ),
    "group_relative": _advantages(
        _to_go(losses.group_relative, "scale", "eps"),
        f"(score - mean) / (std + eps) of the group, or score - mean unless `scale`, {TO_GO}",
        "group_norm' and 'dr_grpo",
        scale=True,
        eps=1e-9,
    ),
    "flash_reinforce": _advantages(
        _to_go(_centred_in_batch), f"score minus the batch's mean {TO_GO}", "flash_reinforce"
    ),
}
