"""google-tunix 0.1.7: losses of sft/dpo and rl/algo_core.py, logit distillation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat import pairs, policy, rollouts
from alignjax.compat.recipe import Arrays, Recipe, Terms
from alignjax.core import mean, shapes
from alignjax.losses import inputs

REFERENCES = ("reference_chosen_logprobs", "reference_rejected_logprobs")


# --- pairs ---
def _dpo(arrays: Arrays, **options: float) -> Terms:
    """Without reference log-probabilities those of the policy stand for the log-ratios."""
    known = all(name in arrays for name in REFERENCES)
    chosen, rejected = pairs.log_ratios(arrays) if known else pairs.sums(arrays)
    return pairs.reduced(losses.dpo(chosen, rejected, **options), arrays)


def _orpo(arrays: Arrays, *, ratio_weight: float, label_smoothing: float) -> Terms:
    shapes.check_number("ratio_weight", ratio_weight, minimum=0)
    e = shapes.check_number("label_smoothing", label_smoothing, minimum=0, below=0.5)
    chosen, rejected = pairs.sums(arrays)
    odds = (1 - e) * losses.odds_ratio(chosen, rejected) + e * losses.odds_ratio(rejected, chosen)
    keep = pairs.pair_mask(arrays, chosen)
    return {
        "nll": mean.masked(-pairs.means(arrays)[0], keep),
        "odds_ratio": mean.masked(ratio_weight * odds, keep),
    }


# --- policy and value ---
def _grpo(level: str) -> Callable[..., Terms]:
    def compute(
        arrays: Arrays,
        *,
        reduction: str,
        kl_weight: float | None,
        estimator: str,
        kl_cap: float | None,
        **options: Any,
    ) -> Terms:
        per_token = rollouts.weighted(policy.clipped(arrays, level=level, **options), arrays)
        terms = {"loss": rollouts.reduced(per_token, arrays, reduction=reduction)}
        if not kl_weight:
            return terms
        values = rollouts.kl_values(arrays, estimator=estimator, cap=kl_cap)
        term = rollouts.reduced(values, arrays, reduction=reduction)
        return {**terms, "kl": policy.scaled(term, kl_weight)}

    return compute


def _ppo_clip(arrays: Arrays, *, entropy_weight: float | None, **options: Any) -> Terms:
    per_token = policy.clipped(arrays, **options)
    loss = losses.token_mean(per_token, arrays["mask"])
    return {"loss": loss, **policy.entropy_term(arrays, weight=entropy_weight or 0.0)}


# --- distillation ---
def _distillation(
    arrays: Arrays, *, temperature: float, distill_weight: float, top_k: int
) -> Terms:
    shapes.check_number("temperature", temperature, above=0)
    weight = shapes.check_number("distill_weight", distill_weight, minimum=0, maximum=1)
    student, teacher = (inputs.as_float(arrays[f"{x}_logits"]) for x in ("student", "teacher"))
    mask = arrays["mask"]
    logprobs = jax.nn.log_softmax(student, axis=-1)
    of_labels = jnp.take_along_axis(logprobs, arrays["labels"][..., None], axis=-1)[..., 0]
    if top_k > 0:
        teacher, kept = jax.lax.top_k(teacher, top_k)
        student = jnp.take_along_axis(student, kept, axis=-1)
    student, teacher = (jax.nn.log_softmax(x / temperature, axis=-1) for x in (student, teacher))
    divergence = weight * temperature**2 * losses.forward_kl(student, teacher, mask)
    return {
        "distill": mean.masked(divergence, mask),
        "nll": mean.masked((1.0 - weight) * losses.token_nll(of_labels, mask), mask),
    }


CORE = "rl/algo_core.py"
CLIP = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": None}
KL = {"kl_weight": 0.04, "estimator": "k1", "kl_cap": None}
TERMS = (
    "times token_weights if given, plus kl_weight * KL to the reference by `estimator` (its k1 is "
    "refused: as a loss it has expected gradient 0); mean by `reduction`"
)


def _policy(level: str, formula: str, source: str, **options: Any) -> Recipe:
    return Recipe(
        compute=_grpo(level),
        formula=f"{formula}; {TERMS}",
        source=source,
        defaults={**CLIP, "reduction": "row_mean", **KL, **options},
    )


RECIPES = {
    "dpo": Recipe(
        compute=_dpo,
        formula="-(1-e) log sig(beta (a - b)) - e log sig(-beta (a - b)), e = label_smoothing; "
        "mean over pairs",
        source="sft/dpo/dpo_trainer.py, algorithm='dpo'",
        defaults={"beta": 0.1, "label_smoothing": 0.0},
    ),
    "orpo": Recipe(
        compute=_orpo,
        formula="-log pi(y_c) / n_c + ratio_weight l(log odds_c - log odds_r), odds of "
        "P = pi(y), the product over tokens (in the paper P is its geometric mean); mean over "
        "pairs",
        source="sft/dpo/dpo_trainer.py, algorithm='orpo'",
        defaults={"ratio_weight": 0.1, "label_smoothing": 0.0},
    ),
    "grpo": _policy("token", "PPO's clip of rho", f"{CORE}, grpo_loss_fn; GRPOConfig"),
    "dr_grpo": _policy(
        "token",
        "PPO's clip of rho",
        f"{CORE}, grpo_loss_fn; DrGRPOConfig",
        reduction="row_fixed",
    ),
    "dapo": _policy(
        "token",
        "PPO's clip of rho",
        f"{CORE}, grpo_loss_fn; DAPOConfig",
        reduction="token_mean",
        clip_high=0.28,
        kl_weight=None,
    ),
    "gspo_token": _policy(
        "sequence_token",
        "PPO's clip of sg(s) pi / sg(pi)",
        f"{CORE}, grpo_loss_fn with loss_algo='gspo-token'",
    ),
    "ppo_clip": Recipe(
        compute=_ppo_clip,
        formula="PPO's clip of rho, minus entropy_weight * entropy; means over all tokens",
        source=f"{CORE}, ppo_policy_loss_fn",
        defaults={**CLIP, "entropy_weight": None},
    ),
    "value_clip": Recipe(
        compute=lambda arrays, *, clip: rollouts.value_clip(
            arrays, clip=clip, reduction="token_mean"
        ),
        formula="max((V - R)^2, (clip(V, V_old -+ clip) - R)^2) / 2; mean over all tokens",
        source=f"{CORE}, ppo_value_loss_fn",
        defaults={"clip": 0.2},
    ),
    "forward_kl": Recipe(
        compute=_distillation,
        formula="distill_weight temperature^2 KL(teacher; student) of softmax(logits / "
        "temperature), over the teacher's top_k entries unless 0, plus (1 - distill_weight) times "
        "-log p of labels [B, T]; mean over counted tokens",
        source="distillation/strategies/logit.py",
        defaults={"temperature": 2.0, "distill_weight": 0.5, "top_k": 0},
    ),
    "kl_penalty": Recipe(
        compute=lambda arrays, *, estimator, cap: rollouts.kl_penalty(
            arrays, estimator=estimator, cap=cap
        ),
        formula="KL to the reference per token by `estimator`, within +-cap, no gradient",
        source="rl/common.py, compute_kl_divergence; rl/ppo/ppo_learner.py",
        defaults={"estimator": "k3", "cap": None},
    ),
    "gae": Recipe(
        compute=rollouts.gae,
        formula="sum over l of (discount decay)^l delta_{t+l}, whitened over all tokens (variance "
        "over n - 1)",
        source=f"{CORE}, compute_gae_advantages",
        defaults={"discount": 1.0, "decay": 0.95},
    ),
    "returns": Recipe(
        compute=rollouts.returns,
        formula="the advantages of gae before they are whitened, + V",
        source=f"{CORE}, compute_gae_advantages",
        defaults={"discount": 1.0, "decay": 0.95},
    ),
    "group_relative": Recipe(
        compute=rollouts.group_relative,
        formula="(r - mean) / (std + eps) of the group, or r - mean unless `scale`, [P, N]",
        source=f"{CORE}, advantage estimators 'grpo' and 'drgrpo'",
        defaults={"scale": True, "eps": 1e-6},
    ),
    "leave_one_out": Recipe(
        compute=rollouts.leave_one_out,
        formula="r - mean of the others, [P, N]",
        source=f"{CORE}, advantage estimator 'rloo'",
    ),
}
