"""Links of losses on rollouts: (arrays, **options) -> losses of tokens [B, T], or of rows [B].

Arrays as in `policy`; for Nash-MD preferences [B], the probability that the policy's sample wins;
for XPO the reference's sample as other_logprobs, reference_other_logprobs, other_mask [B, T] and
preferred [B], 1 where the policy's sample is the better one.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat.arrays import Arrays
from alignjax.compat.blocks import kl
from alignjax.core import shapes
from alignjax.losses import inputs


def rows(arrays: Arrays) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(logprobs, old_logprobs, advantages, mask): what most policy losses take."""
    return arrays["logprobs"], kl.old_logprobs(arrays), arrays["advantages"], arrays["mask"]


def with_next_slot(mask: Any) -> jax.Array:
    """[B, T] booleans: the answer and the slot after it (TRL's PPO)."""
    keep = jnp.asarray(mask) != 0
    return keep | jnp.pad(keep, ((0, 0), (1, 0)))[:, :-1]


def sampler_weights(
    arrays: Arrays,
    *,
    level: str | None,
    beyond: str,
    maximum: float | None,
    minimum: float | None = None,
) -> Any:
    """Trainer over sampler, [B, T]; 1 if `level` is None or the batch has no sampler_logprobs."""
    if level is None or "sampler_logprobs" not in arrays:
        return 1.0
    return losses.sampler_weight(
        kl.old_logprobs(arrays),
        arrays["sampler_logprobs"],
        arrays["mask"],
        level=level,
        beyond=beyond,
        maximum=maximum,
        minimum=minimum,
    )


# --- clipped surrogates ---
def ppo_clip(
    arrays: Arrays,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
    level: str = "token",
) -> jax.Array:
    """PPO's clip of the ratio of `level`.

    "token": rho, [B, T]; "sequence": s, [B]; "sequence_token": sg(s) with the gradient of each
    token's log-probability, [B, T]; "response": pi(y) / old(y), [B].
    """
    numbers: dict[str, Any] = {"clip_low": clip_low, "clip_high": clip_high}
    if level == "response":
        return losses.rloo_clip(*rows(arrays), **numbers)
    surrogates: Mapping[str, Callable[..., jax.Array]] = {
        "token": losses.ppo_clip,
        "sequence": losses.gspo,
        "sequence_token": losses.gspo_token,
    }
    shapes.check_choice("level", level, surrogates)
    return surrogates[level](*rows(arrays), **numbers, dual_clip=dual_clip)


def ppo_clip_two_sided(
    arrays: Arrays, *, clip_low: float, clip_high: float, dual_clip: float | None, level: str
) -> jax.Array:
    """`ppo_clip` where the reference bounds the ratio itself from above by dual_clip (TRL's delta).

    From 1 + clip_high on that is the dual clip: it binds for A < 0 alone. Below, it would undo
    clip_high.

    Raises:
      ValueError: dual_clip < 1 + clip_high.
    """
    if dual_clip is not None:
        shapes.check_number("dual_clip", dual_clip, minimum=1.0 + clip_high)
    return ppo_clip(
        arrays, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip, level=level
    )


def ppo_clip_of_sampler(
    arrays: Arrays,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
    level: str,
    correction: bool,
) -> jax.Array:
    """`ppo_clip` of the ratio to the sampler in place of the old policy, with `correction`."""
    if correction:
        arrays = arrays.replace(old_logprobs=arrays["sampler_logprobs"])
    return ppo_clip(
        arrays, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip, level=level
    )


# --- other surrogates of the ratio ---
def cispo(
    arrays: Arrays, *, maximum_ratio: float, minimum_ratio: float = 0.0, level: str
) -> jax.Array:
    """`losses.cispo`."""
    return losses.cispo(
        *rows(arrays), maximum_ratio=maximum_ratio, minimum_ratio=minimum_ratio, level=level
    )


def cispo_around_1(arrays: Arrays, *, clip_low: float, clip_high: float) -> jax.Array:
    """`losses.cispo` within 1 - clip_low and 1 + clip_high (verl)."""
    return losses.cispo(*rows(arrays), minimum_ratio=1.0 - clip_low, maximum_ratio=1.0 + clip_high)


def sapo(
    arrays: Arrays, *, positive_temperature: float, negative_temperature: float, level: str
) -> jax.Array:
    """`losses.sapo`."""
    return losses.sapo(
        *rows(arrays),
        positive_temperature=positive_temperature,
        negative_temperature=negative_temperature,
        level=level,
    )


def gmpo(arrays: Arrays, *, clip_low: float, clip_high: float) -> jax.Array:
    """`losses.gmpo`, [B]; advantages of tokens are averaged over each row."""
    logprobs, old, advantages, mask = rows(arrays)
    if jnp.ndim(advantages) == 2:
        advantages = losses.score_mean(advantages, mask)
    return losses.gmpo(logprobs, old, advantages, mask, clip_low=clip_low, clip_high=clip_high)


def vespo(
    arrays: Arrays, *, positive: tuple[float, float], negative: tuple[float, float]
) -> jax.Array:
    """`losses.vespo`."""
    return losses.vespo(*rows(arrays), None, positive=positive, negative=negative)


def vespo_with_sampler(
    arrays: Arrays,
    *,
    positive: tuple[float, float],
    negative: tuple[float, float],
    sampler_beyond: str,
    sampler_maximum: float | None,
    sampler_minimum: float | None,
) -> jax.Array:
    """`losses.vespo` where the sampler's weights of tokens join the ratio of the response (TRL)."""
    weights = sampler_weights(
        arrays,
        level="token",
        beyond=sampler_beyond,
        maximum=sampler_maximum,
        minimum=sampler_minimum,
    )
    joined = None if isinstance(weights, float) else weights
    return losses.vespo(*rows(arrays), joined, positive=positive, negative=negative)


def token_share(fraction: float, arrays: Arrays) -> Any:
    """`fraction` of the counted tokens as a whole number of them, rounded down, at least 1."""
    number = inputs.count(jnp.asarray(arrays["mask"]) != 0, (0, 1))
    return jnp.maximum(jnp.floor(fraction * number), 1.0) / number


def clip_cov(
    arrays: Arrays,
    *,
    fraction: float,
    minimum: float,
    maximum: float,
    clip_low: float,
    clip_high: float,
) -> jax.Array:
    """`losses.clip_cov`."""
    return losses.clip_cov(
        *rows(arrays),
        arrays["key"],
        fraction=fraction,
        minimum=minimum,
        maximum=maximum,
        clip_low=clip_low,
        clip_high=clip_high,
    )


def clip_cov_whole_tokens(
    arrays: Arrays,
    *,
    fraction: float,
    minimum: float,
    maximum: float,
    clip_low: float,
    clip_high: float,
) -> jax.Array:
    """`clip_cov` on a whole number of tokens, at least 1 (verl)."""
    return clip_cov(
        arrays,
        fraction=token_share(fraction, arrays),
        minimum=minimum,
        maximum=maximum,
        clip_low=clip_low,
        clip_high=clip_high,
    )


def kl_cov(arrays: Arrays, *, fraction: float, penalty: float) -> jax.Array:
    """`losses.kl_cov`."""
    return losses.kl_cov(*rows(arrays), fraction=fraction, penalty=penalty)


def kl_cov_whole_tokens(arrays: Arrays, *, fraction: float, penalty: float) -> jax.Array:
    """`kl_cov` on a whole number of tokens, at least 1 (verl)."""
    return kl_cov(arrays, fraction=token_share(fraction, arrays), penalty=penalty)


def dppo(arrays: Arrays, *, threshold: float, measure: str, maximum_ratio: float) -> jax.Array:
    """`losses.dppo`."""
    numbers: dict[str, Any] = {"threshold": threshold, "maximum_ratio": maximum_ratio}
    return losses.dppo(*rows(arrays), measure=measure, **numbers)


# --- without a ratio ---
def reinforce(arrays: Arrays) -> jax.Array:
    """`losses.reinforce`."""
    return losses.reinforce(arrays["logprobs"], arrays["advantages"], arrays["mask"])


def dro(arrays: Arrays, *, beta: float) -> jax.Array:
    """-A log pi + beta (log pi - log old)^2 / 2."""
    shapes.check_number("beta", beta, above=0)
    drift = losses.k2(arrays["logprobs"], kl.old_logprobs(arrays), arrays["mask"])
    return reinforce(arrays) + beta * drift


def nash_md(arrays: Arrays, *, beta: float) -> jax.Array:
    """`losses.nash_md`, [B]."""
    names = ("logprobs", "reference_logprobs", "preferences", "mask")
    return losses.nash_md(*(arrays[name] for name in names), beta=beta)


def nash_md_of_answers(arrays: Arrays, *, beta: float) -> jax.Array:
    """`losses.nash_md` of whole answers, [B]: the log-ratio is their sum over tokens."""
    own, reference = (
        losses.score_sum(arrays[name], arrays["mask"])[:, None]
        for name in ("logprobs", "reference_logprobs")
    )
    return losses.nash_md(own, reference, arrays["preferences"], beta=beta)


def xpo(arrays: Arrays, *, beta: float, optimism: float, link: str) -> jax.Array:
    """`losses.xpo`, [B], on the policy's sample and the reference's."""
    other = losses.score_sum(arrays["other_logprobs"], arrays["other_mask"])
    base = losses.score_sum(arrays["reference_other_logprobs"], arrays["other_mask"])
    own = losses.score_sum(arrays["logprobs"], arrays["mask"])
    reference = losses.score_sum(arrays["reference_logprobs"], arrays["mask"])
    a, b = (x - jax.lax.stop_gradient(y) for x, y in ((own, reference), (other, base)))
    better = jnp.asarray(arrays["preferred"]) != 0
    chosen, rejected = jnp.where(better, a, b), jnp.where(better, b, a)
    return losses.xpo(chosen, rejected, other, beta=beta, optimism=optimism, link=link)


# --- critic, entropy, KL ---
def value_clip(arrays: Arrays, *, clip: float | None) -> jax.Array:
    """`losses.value_clip`, with its 1/2."""
    names = ("values", "old_values", "returns", "mask")
    return losses.value_clip(*(arrays[name] for name in names), clip=clip)


def entropy(arrays: Arrays) -> jax.Array:
    """-entropy."""
    return losses.entropy_bonus(arrays["entropy"], arrays["mask"])


def kl_cut(arrays: Arrays, *, estimator: str, exact_gradient: bool) -> jax.Array:
    """KL to the reference within +-10 nats; its exact gradient is that of rho k2 (OpenRLHF)."""
    return kl.values(
        arrays,
        estimator=estimator,
        cap=kl.CAP,
        exact_gradient=exact_gradient,
        maximum_ratio=kl.MAXIMUM_RATIO,
    )


def kl_with_k3_cut(arrays: Arrays, *, estimator: str, exact_gradient: bool) -> jax.Array:
    """KL to the reference, k3 within +-10 nats; its exact gradient is that of k2 (verl)."""
    cap = kl.verl_cap(estimator)
    return kl.values(arrays, estimator=estimator, cap=cap, exact_gradient=exact_gradient)


LINKS: Mapping[str, Callable[..., jax.Array]] = {
    "cispo": cispo,
    "cispo_around_1": cispo_around_1,
    "clip_cov": clip_cov,
    "clip_cov_whole_tokens": clip_cov_whole_tokens,
    "dppo": dppo,
    "dro": dro,
    "entropy": entropy,
    "gmpo": gmpo,
    "kl_cov": kl_cov,
    "kl_cov_whole_tokens": kl_cov_whole_tokens,
    "kl_cut": kl_cut,
    "kl_with_k3_cut": kl_with_k3_cut,
    "nash_md": nash_md,
    "nash_md_of_answers": nash_md_of_answers,
    "ppo_clip": ppo_clip,
    "ppo_clip_of_sampler": ppo_clip_of_sampler,
    "ppo_clip_two_sided": ppo_clip_two_sided,
    "reinforce": reinforce,
    "sapo": sapo,
    "value_clip": value_clip,
    "vespo": vespo,
    "vespo_with_sampler": vespo_with_sampler,
    "xpo": xpo,
}
