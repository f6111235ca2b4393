"""Losses on pairs from token log-probabilities: score o divergence o link o reduction.

Arrays: chosen_logprobs, rejected_logprobs, and with a reference reference_chosen_logprobs,
reference_rejected_logprobs, [B, T] in nats; chosen_mask, rejected_mask [B, T]; optional pair_mask
[B]; chosen_sum_p2, rejected_sum_p2 [B, T] for WPO; shift, a scalar in reward units, for bco_pair.
a, b: log-ratios of the two answers, sums over their n_c and n_r tokens; f: the divergence.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat.recipe import Arrays, Terms
from alignjax.core import mean, shapes
from alignjax.losses import inputs

SIDES = ("chosen", "rejected")


def lengths(arrays: Arrays) -> list[jax.Array]:
    """[n_c, n_r]: tokens of the answers, at least 1."""
    return [inputs.count(jnp.asarray(arrays[f"{side}_mask"]) != 0) for side in SIDES]


def pair_mask(arrays: Arrays, like: jax.Array) -> Any:
    """[B]: which pairs count; all unless the arrays say otherwise."""
    return arrays["pair_mask"] if "pair_mask" in arrays else jnp.ones_like(like, dtype=bool)


def token_mask(arrays: Arrays, name: str) -> jax.Array:
    """[B, T] booleans: the mask of that name, in the pairs that count."""
    keep = jnp.asarray(arrays[name]) != 0
    return (
        keep & (jnp.asarray(arrays["pair_mask"]) != 0)[:, None] if "pair_mask" in arrays else keep
    )


def sums(arrays: Arrays, prefix: str = "", ld_alpha: float = 1.0) -> list[jax.Array]:
    """[chosen, rejected] log-probabilities [B] in nats; tokens beyond the common length count
    ld_alpha (LD-DPO)."""
    masks = [arrays[f"{side}_mask"] for side in SIDES]
    rows = [arrays[f"{prefix}{side}_logprobs"] for side in SIDES]
    if ld_alpha == 1.0:
        return [losses.score_sum(row, mask) for row, mask in zip(rows, masks, strict=True)]
    return [
        losses.score_ld(rows[i], masks[i], masks[1 - i], alpha=ld_alpha) for i in range(len(rows))
    ]


def means(arrays: Arrays, prefix: str = "") -> list[jax.Array]:
    """[chosen, rejected] mean log-probabilities [B], nats per token."""
    return [
        losses.score_mean(arrays[f"{prefix}{side}_logprobs"], arrays[f"{side}_mask"])
        for side in SIDES
    ]


def log_ratios(arrays: Arrays, ld_alpha: float = 1.0) -> list[jax.Array]:
    """[a, b]: log pi - log ref of the two answers, [B], nats."""
    policy, reference = sums(arrays, "", ld_alpha), sums(arrays, "reference_", ld_alpha)
    return [p - jax.lax.stop_gradient(r) for p, r in zip(policy, reference, strict=True)]


def wpo_weights(arrays: Arrays, maximum: float | None = None) -> jax.Array:
    """Product of the WPO weights of the two answers, [B], at most `maximum`."""
    chosen, rejected = (
        losses.wpo_weight(
            arrays[f"{side}_logprobs"], arrays[f"{side}_sum_p2"], arrays[f"{side}_mask"]
        )
        for side in SIDES
    )
    product = chosen * rejected
    return product if maximum is None else jnp.minimum(product, maximum)


Divergence = Callable[[jax.Array, float], jax.Array]
# f' of the f-divergences as functions of the log-ratio and the alpha of that family.
DIVERGENCES: dict[str, Divergence] = {
    "reverse_kl": lambda x, alpha: losses.reverse_kl_divergence(x),
    "forward_kl": lambda x, alpha: losses.forward_kl_divergence(x),
    "js": lambda x, alpha: losses.js_divergence(x),
    "alpha": lambda x, alpha: losses.alpha_divergence(x, alpha=alpha),
}


def reduced(
    per_pair: jax.Array, arrays: Arrays, *, wpo: bool = False, wpo_maximum: float | None = None
) -> Terms:
    """The mean over pairs, each times its WPO weight if asked."""
    if wpo:
        per_pair = per_pair * wpo_weights(arrays, wpo_maximum)
    return {"loss": mean.masked(per_pair, pair_mask(arrays, per_pair))}


def referenced(
    link: Callable[..., jax.Array],
    divergences: dict[str, Divergence] = DIVERGENCES,
    *,
    per_token: bool = False,
) -> Callable[..., Terms]:
    """`compute` of a loss link(f(a), f(b), **options), or of f(a) / n_c, f(b) / n_r."""

    def compute(
        arrays: Arrays, *, ld_alpha: float, wpo: bool, divergence: str, alpha: float, **options: Any
    ) -> Terms:
        shapes.check_choice("divergence", divergence, divergences)
        scored = [divergences[divergence](x, alpha) for x in log_ratios(arrays, ld_alpha)]
        if per_token:
            scored = [x / n for x, n in zip(scored, lengths(arrays), strict=True)]
        return reduced(link(*scored, **options), arrays, wpo=wpo)

    return compute


def on_ratios(link: Callable[..., jax.Array], *extra: str) -> Callable[..., Terms]:
    """`compute` of a loss link(a, b, **options), with the arrays named in `extra` as options."""

    def compute(arrays: Arrays, *, ld_alpha: float, wpo: bool, **options: Any) -> Terms:
        given = {name: arrays[name] for name in extra}
        return reduced(link(*log_ratios(arrays, ld_alpha), **given, **options), arrays, wpo=wpo)

    return compute


def aot(arrays: Arrays, *, ld_alpha: float, **options: Any) -> Terms:
    """`compute` of `losses.aot`: sorted margins of the policy against those of the reference."""
    chosen, rejected = sums(arrays, "", ld_alpha)
    base, other = (jax.lax.stop_gradient(x) for x in sums(arrays, "reference_", ld_alpha))
    keep = pair_mask(arrays, chosen)
    return _sorted_mean(losses.aot(chosen, rejected, base, other, keep, **options), keep)


def aot_unpaired(arrays: Arrays, *, ld_alpha: float, **options: Any) -> Terms:
    """`compute` of `losses.aot_unpaired`: sorted a against sorted b."""
    a, b = log_ratios(arrays, ld_alpha)
    keep = pair_mask(arrays, a)
    return _sorted_mean(losses.aot_unpaired(a, b, keep, **options), keep)


def _sorted_mean(loss: jax.Array, keep: jax.Array) -> Terms:
    """The mean over pairs of losses that came back in sorted order, 0 for those not counted."""
    return {"loss": mean.Mean(total=jnp.sum(loss), weight=mean.masked(loss, keep).weight)}


def chosen_nll(arrays: Arrays) -> Terms:
    """-log pi of the chosen answers, averaged over all their tokens: the SFT term of a mix."""
    keep = token_mask(arrays, "chosen_mask")
    return {"loss": mean.masked(losses.token_nll(arrays["chosen_logprobs"], keep), keep)}
