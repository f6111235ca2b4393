"""GRPOTrainer, RLOOTrainer and GMPOTrainer of TRL 1.16 by our names.

Ratios are not limited in TRL; ours are within e^+-20. With `row_mask` of ones, as in TRL, an answer
without a counted token counts in means over rows.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat import policy
from alignjax.compat.recipe import Arrays, Recipe, Terms

CLIP = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": None}
# What every loss of GRPOTrainer can be combined with. The weights of the sampler apply to batches
# with sampler_logprobs; TRL's four modes are level and beyond.
COMMON: dict[str, Any] = {
    "level": "token",
    "kl_weight": 0.0,
    "kl_corrected": True,
    "entropy_weight": 0.0,
    "entropy_share": 1.0,
    "off_policy_threshold": None,
    "sampler_level": "sequence",
    "sampler_beyond": "drop",
    "sampler_maximum": 3.0,
    "sampler_minimum": None,
}
AROUND = (
    "times the sampler's weight, on the top entropy_share of tokens, + kl_weight rho k3 "
    "(k3 unless kl_corrected) - entropy_weight H (a token mean)"
)
SOURCE = "trainer/grpo_trainer.py"
TokenLoss = Callable[..., jax.Array]


def _sampler(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[f"sampler_{name}"] for name in ("level", "beyond", "maximum", "minimum")}


def _kept(arrays: Arrays, share: float, threshold: float | None) -> Any:
    """[B, T]: 1 for the tokens whose policy loss counts."""
    keep = jnp.asarray(policy.entropy_mask(arrays, share), jnp.float32)
    if threshold is None:
        return keep
    sampled = "sampler_logprobs" in arrays
    others = arrays["sampler_logprobs"] if sampled else policy.old_logprobs(arrays)
    given = arrays["logprobs"], others, arrays["advantages"], arrays["mask"]
    return keep * losses.off_policy_keep(*given, threshold=threshold)[:, None]


def _terms(
    per_token: jax.Array, arrays: Arrays, reduce: policy.Reduce, weights: Any, options: Any
) -> Terms:
    """Policy, KL and entropy of token losses [B, T]."""
    share = options["entropy_share"]
    keep = _kept(arrays, share, options["off_policy_threshold"])
    ratio = options["level"] if options["kl_corrected"] else None
    return {
        "policy": reduce(per_token * keep * weights, arrays),
        **policy.kl_term(arrays, reduce, weight=options["kl_weight"], ratio=ratio),
        **policy.entropy_term(arrays, weight=options["entropy_weight"], share=share),
    }


def _compute(loss: TokenLoss, reduce: policy.Reduce) -> Callable[..., Terms]:
    """`compute` of loss(arrays, level=..., **its options), [B, T]."""

    def compute(arrays: Arrays, **options: Any) -> Terms:
        own = {name: x for name, x in options.items() if name not in COMMON}
        per_token = loss(arrays, level=options["level"], **own)
        weights = policy.sampler_weights(arrays, **_sampler(options))
        return _terms(per_token, arrays, reduce, weights, options)

    return compute


def _dr_grpo(arrays: Arrays, *, length: float, **options: Any) -> Terms:
    return _compute(policy.two_sided, policy.row_fixed(length))(arrays, **options)


def _cispo(arrays: Arrays, *, level: str, maximum_ratio: float) -> jax.Array:
    return losses.cispo(*policy.inputs(arrays), maximum_ratio=maximum_ratio, level=level)


def _sapo(arrays: Arrays, *, level: str, **temperatures: Any) -> jax.Array:
    return losses.sapo(*policy.inputs(arrays), level=level, **temperatures)


def _vespo(arrays: Arrays, *, positive: Any, negative: Any, **options: Any) -> Terms:
    """The sampler's weights join the ratio of the response."""
    options = {**options, "level": "token"}
    weights = policy.sampler_weights(arrays, **_sampler({**options, "sampler_level": "token"}))
    joined = None if isinstance(weights, float) else weights
    found = losses.vespo(*policy.inputs(arrays), joined, positive=positive, negative=negative)
    return _terms(found, arrays, policy.token_mean, 1.0, options)


def _gmpo(arrays: Arrays, *, kl_weight: float, clip_low: float, clip_high: float) -> Terms:
    found = losses.gmpo(*policy.inputs(arrays), clip_low=clip_low, clip_high=clip_high)
    return {
        "policy": policy.over_rows(found, arrays),
        **policy.kl_term(arrays, policy.row_mean, weight=kl_weight),
    }


def _recipe(
    compute: Callable[..., Terms], formula: str, mean: str, options: str, **defaults: Any
) -> Recipe:
    return Recipe(
        compute=compute,
        formula=f"{formula}, {AROUND}; {mean}",
        source=f"{SOURCE}, {options}",
        defaults={**COMMON, **defaults},
    )


CLIPPED = "-min(min(rho, dual_clip) A, clip(rho, 1 - clip_low, 1 + clip_high) A), rho of `level`"
ROW_MEAN = "mean over each row's tokens, then rows"
LOSSES = {
    "grpo": _recipe(
        _compute(policy.two_sided, policy.row_mean), CLIPPED, ROW_MEAN, "loss_type='grpo'", **CLIP
    ),
    "gspo": _recipe(
        _compute(policy.two_sided, policy.row_mean),
        CLIPPED,
        ROW_MEAN,
        "loss_type='grpo', importance_sampling_level='sequence'",
        **CLIP | {"level": "sequence"},
    ),
    "bnpo": _recipe(
        _compute(policy.two_sided, policy.token_mean),
        CLIPPED,
        "mean over all tokens of the micro-batch",
        "loss_type='bnpo'",
        **CLIP,
    ),
    "dr_grpo": _recipe(
        _dr_grpo,
        CLIPPED,
        "summed over each row's tokens / length, then mean over rows",
        "loss_type='dr_grpo'",
        **CLIP,
        length=512.0,
    ),
    "dapo": _recipe(
        _compute(policy.two_sided, policy.token_mean),
        CLIPPED,
        "mean over all tokens of the batch",
        "loss_type='dapo'",
        **CLIP,
    ),
    "luspo": _recipe(
        _compute(policy.two_sided, policy.row_sum),
        CLIPPED,
        "summed over each row's tokens, then mean over rows",
        "loss_type='luspo'",
        **CLIP,
    ),
    "cispo": _recipe(
        _compute(_cispo, policy.token_mean),
        "-sg(min(rho, maximum_ratio)) A log pi (the bound is epsilon_high itself, not 1 + it)",
        "mean over all tokens of the batch",
        "loss_type='cispo'",
        maximum_ratio=0.2,
    ),
    "sapo": _recipe(
        _compute(_sapo, policy.row_mean),
        "-A (4/tau) sig(tau (rho - 1))",
        ROW_MEAN,
        "loss_type='sapo'",
        positive_temperature=1.0,
        negative_temperature=1.05,
    ),
    "vespo": Recipe(
        compute=_vespo,
        formula="-sg(w^k exp(lam (1 - w))) A log pi, w = pi(y) / old(y) times the sampler's "
        "weights of tokens, + kl_weight rho k3 - entropy_weight H; mean over all tokens",
        source=f"{SOURCE}, loss_type='vespo'",
        defaults={
            **{k: v for k, v in COMMON.items() if k not in ("level", "sampler_level")},
            "positive": (2.0, 3.0),
            "negative": (3.0, 2.0),
        },
    ),
    "gmpo": Recipe(
        compute=_gmpo,
        formula="-A exp(mean over tokens of clipped log rho) + kl_weight mean over tokens of k3; "
        "mean over rows",
        source="experimental/gmpo/gmpo_trainer.py",
        defaults={"clip_low": 0.4, "clip_high": 0.4, "kl_weight": 0.0},
    ),
    "rloo_clip": Recipe(
        compute=policy.token_recipe(losses.rloo_clip, policy.over_rows),
        formula="-min(R A, clip(R, 1 - clip_low, 1 + clip_high) A), R = pi(y) / old(y); "
        "mean over rows",
        source="trainer/rloo_trainer.py",
        defaults={"clip_low": 0.2, "clip_high": 0.2},
    ),
}


def _over_batch(advantages: jax.Array, keep: jax.Array) -> jax.Array:
    """(A - mean) / (std + 1e-4) over the whole batch [B, N]."""
    one = losses.group_relative(advantages.reshape(1, -1), keep.reshape(1, -1))
    return one.reshape(advantages.shape)


def _group_relative(arrays: Arrays, *, scale: str) -> jax.Array:
    return policy.in_groups(arrays["rewards"], scale=scale)


def _gdpo(arrays: Arrays) -> jax.Array:
    """Rewards [B, N, K], each missing for itself; a sample without any gets 0."""
    rewards, weights = jnp.asarray(arrays["rewards"]), arrays["reward_weights"]
    each = jax.vmap(lambda r: policy.in_groups(r, scale="group"), in_axes=-1, out_axes=-1)(rewards)
    return _over_batch(each @ jnp.asarray(weights), jnp.any(policy.valid(rewards), axis=-1))


def _leave_one_out(
    arrays: Arrays, *, kl_weight: float, clip: tuple[float, float] | None, whiten: bool
) -> jax.Array:
    rewards = jnp.asarray(arrays["rewards"])
    keep = policy.valid(rewards)
    if clip is not None:
        rewards = jnp.clip(rewards, *clip)
    if kl_weight != 0.0:
        given = (arrays[name] for name in ("old_logprobs", "reference_logprobs", "mask"))
        rewards = rewards - kl_weight * jnp.sum(losses.kl_penalty(*given), -1).reshape(keep.shape)
    found = losses.leave_one_out(rewards, keep)
    if not whiten:
        return found
    # A lone sample has no baseline, so that it has no advantage to normalise either.
    return _over_batch(found, keep & (jnp.sum(keep, axis=-1, keepdims=True) > 1))


# Of rewards [B, N], NaN where no reward function gave a score.
ADVANTAGES = {
    "group_relative": Recipe(
        compute=_group_relative,
        formula="(r - mean of the prompt's samples) / (std of them, or of the batch, + 1e-4)",
        source=f"{SOURCE}, scale_rewards",
        defaults={"scale": "group"},
    ),
    "gdpo": Recipe(
        compute=_gdpo,
        formula="sum over rewards of weight (r - mean) / (std + 1e-4), then (A - mean) / "
        "(std + 1e-4) over the batch",
        source=f"{SOURCE}, multi_objective_aggregation='normalize_then_sum'",
    ),
    "leave_one_out": Recipe(
        compute=_leave_one_out,
        formula="clipped r - kl_weight sum over tokens of k1, minus the mean of the prompt's other "
        "samples; (A - mean) / (std + 1e-4) over the batch if whiten",
        source="trainer/rloo_trainer.py",
        defaults={"kl_weight": 0.05, "clip": None, "whiten": False},
    ),
}
RECIPES = {**LOSSES, **ADVANTAGES}
