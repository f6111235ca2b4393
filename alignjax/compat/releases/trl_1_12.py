"""PPOTrainer of TRL 1.12.0, the last release that holds it.

An answer is followed by one more slot, the first pad after EOS, if the batch is wide enough: TRL
puts the score there and trains a value for it. Masks count the answer alone, at least one token,
without gaps and from the first column on.
"""

from typing import Any

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat import policy
from alignjax.compat.recipe import Arrays, Recipe, Terms
from alignjax.core import shapes

SOURCE = "experimental/ppo/ppo_trainer.py"


def _one_more(mask: jax.Array) -> jax.Array:
    """[B, T] booleans: the answer and the slot after it."""
    keep = jnp.asarray(mask) != 0
    return keep | jnp.pad(keep, ((0, 0), (1, 0)))[:, :-1]


def _rewards(arrays: Arrays, *, kl_weight: float, estimator: str) -> jax.Array:
    shapes.check_choice("estimator", estimator, ("k1", "k3"))
    given = (arrays[name] for name in ("old_logprobs", "reference_logprobs", "mask"))
    penalty = losses.kl_penalty(*given, estimator=estimator)
    slots = _one_more(arrays["mask"])
    last = slots & ~jnp.pad(slots, ((0, 0), (0, 1)))[:, 1:]
    return jnp.where(last, jnp.asarray(arrays["scores"])[:, None], 0.0) - kl_weight * penalty


def _gae(
    arrays: Arrays, *, discount: float, decay: float, whiten_rewards: bool
) -> tuple[jax.Array, jax.Array]:
    rewards, slots = arrays["rewards"], _one_more(arrays["mask"])
    if whiten_rewards:
        rewards = losses.whiten(rewards, slots, shift_mean=False, unbiased=True)
    return losses.gae(rewards, arrays["values"], slots, discount=discount, decay=decay)


def _advantages(arrays: Arrays, **options: Any) -> jax.Array:
    found = _gae(arrays, **options)[0]
    return losses.whiten(found, arrays["mask"], unbiased=True)


def _returns(arrays: Arrays, **options: Any) -> jax.Array:
    return _gae(arrays, **options)[1]


def _value_clip(arrays: Arrays, *, clip: float, weight: float) -> Terms:
    slots = {**arrays, "mask": _one_more(arrays["mask"])}
    return policy.value_recipe(Arrays(slots, "value_clip"), clip=clip, weight=weight)


GAE = {"discount": 1.0, "decay": 0.95, "whiten_rewards": False}
RECIPES = {
    "ppo_clip": Recipe(
        compute=policy.token_recipe(losses.ppo_clip),
        formula="-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A); mean over all tokens of "
        "the micro-batch",
        source=f"{SOURCE}, pg_loss",
        defaults={"clip_low": 0.2, "clip_high": 0.2},
    ),
    "value_clip": Recipe(
        compute=_value_clip,
        formula="weight max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2) / 2; mean over "
        "all tokens of the micro-batch and the slot after each answer",
        source=f"{SOURCE}, vf_coef * vf_loss",
        defaults={"clip": 0.2, "weight": 0.1},
    ),
    "rewards": Recipe(
        compute=_rewards,
        formula="-kl_weight k per token, + the score in the slot after the answer (its last token "
        "if there is none)",
        source=f"{SOURCE}, rewards",
        defaults={"kl_weight": 0.05, "estimator": "k1"},
    ),
    "gae": Recipe(
        compute=_advantages,
        formula="sum over l of (discount decay)^l delta_{t+l} over the answer and the slot after "
        "it; (A - mean) / sqrt(unbiased variance + 1e-8) over the answers' tokens; rewards "
        "first scaled likewise, without shift, if whiten_rewards",
        source=f"{SOURCE}, advantages",
        defaults=GAE,
    ),
    "returns": Recipe(
        compute=_returns,
        formula="the advantages of gae before they are whitened, + V",
        source=f"{SOURCE}, returns",
        defaults=GAE,
    ),
}
