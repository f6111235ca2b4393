"""Nash-MD, XPO, GSPO-token and MiniLLM of TRL 1.13, which later releases removed.

Arrays beside those of `alignjax.compat.policy`: preferences [B], the probability that the policy's
sample wins; for XPO the reference's sample as other_logprobs, reference_other_logprobs, other_mask
[B, T] and preferred [B], 1 where the policy's sample is the better one; for MiniLLM
teacher_logprobs [B, T] of the sampled tokens, and student_logits, teacher_logits [B, T, V].
"""

from typing import Any

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat import language, policy
from alignjax.compat.recipe import Arrays, Recipe, Terms
from alignjax.core import shapes


def _nash_md(arrays: Arrays, *, beta: float) -> Terms:
    given = (arrays[name] for name in ("logprobs", "reference_logprobs", "preferences", "mask"))
    return {"policy": policy.over_rows(losses.nash_md(*given, beta=beta), arrays)}


def _xpo(arrays: Arrays, **options: Any) -> Terms:
    other = losses.score_sum(arrays["other_logprobs"], arrays["other_mask"])
    base = losses.score_sum(arrays["reference_other_logprobs"], arrays["other_mask"])
    own = losses.score_sum(arrays["logprobs"], arrays["mask"])
    reference = losses.score_sum(arrays["reference_logprobs"], arrays["mask"])
    a, b = (x - jax.lax.stop_gradient(y) for x, y in ((own, reference), (other, base)))
    better = jnp.asarray(arrays["preferred"]) != 0
    chosen, rejected = jnp.where(better, a, b), jnp.where(better, b, a)
    return {"policy": policy.over_rows(losses.xpo(chosen, rejected, other, **options), arrays)}


REDUCTIONS = {"token_mean": policy.token_mean, "row_mean": policy.row_mean}


def _gspo_token(arrays: Arrays, *, reduction: str, kl_weight: float, **clip: Any) -> Terms:
    shapes.check_choice("reduction", reduction, REDUCTIONS)
    reduce = REDUCTIONS[reduction]
    return {
        "policy": reduce(policy.two_sided(arrays, level="sequence_token", **clip), arrays),
        **policy.kl_term(arrays, reduce, weight=kl_weight),
    }


def _minillm_advantages(arrays: Arrays, *, discount: float, length_normalise: bool) -> jax.Array:
    mask = jnp.asarray(arrays["mask"])
    rewards = losses.k1(arrays["teacher_logprobs"], arrays["logprobs"], mask)
    found = losses.discounted_returns(rewards, mask, discount=discount)
    if discount == 0.0:
        return found
    if length_normalise:
        ones = jnp.ones_like(found)
        lengths = losses.discounted_returns(ones, mask, discount=discount)
        return jnp.where(mask != 0, found / jnp.where(mask != 0, lengths, 1.0), 0.0)
    return found * discount ** jnp.arange(mask.shape[-1])[None]


RECIPES = {
    "nash_md": Recipe(
        compute=_nash_md,
        formula="sum over tokens of (beta sg(log pi - log ref) - (P - 1/2)) log pi; mean over rows",
        source="experimental/nash_md/nash_md_trainer.py",
        defaults={"beta": 0.1},
    ),
    "xpo": Recipe(
        compute=_xpo,
        formula="-log sig(beta (chosen - rejected)) (or IPO's square) + optimism log pi of the "
        "reference's sample, sums over tokens; mean over rows",
        source="experimental/xpo/xpo_trainer.py",
        defaults={"beta": 0.1, "optimism": 1e-5, "link": "dpo"},
    ),
    "gspo_token": Recipe(
        compute=_gspo_token,
        formula="-min(min(s, dual_clip) A, clip(s, 1 - clip_low, 1 + clip_high) A) + kl_weight k3, "
        "s = sg(ratio of the response to 1/|y|) pi / sg(pi); mean over all tokens, or over each "
        "row's tokens, then rows",
        source="experimental/gspo_token/grpo_trainer.py, sequence_token",
        defaults={
            "clip_low": 0.2,
            "clip_high": 0.2,
            "dual_clip": None,
            "kl_weight": 0.0,
            "reduction": "token_mean",
        },
    ),
    "minillm": Recipe(
        compute=language.distillation(losses.reverse_kl),
        formula="KL(student; teacher) of softmax(logits / temperature); mean over all tokens; "
        "beside the policy loss of GRPO on minillm_advantages",
        source="experimental/minillm/minillm_trainer.py, single_step_decomposition",
        defaults={"temperature": 1.0},
    ),
    "minillm_advantages": Recipe(
        compute=_minillm_advantages,
        formula="log teacher - log student of the token; if discount > 0 the discounted mean from "
        "it on (length_normalise), or discount^t times the discounted sum",
        source="experimental/minillm/minillm_trainer.py, rkl_advantage",
        defaults={"discount": 0.0, "length_normalise": True},
    ),
}
