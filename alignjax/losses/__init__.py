"""Losses: arrays in, unreduced arrays out. Imports jax and `alignjax.core` only.

Numbers are fp32 (float64 stays as it is); masked entries give 0 and no gradient; nothing is
averaged except where a definition needs the batch. Average with `Mean`s (reductions.py).
"""

from alignjax.losses.advantages import (
    discounted_returns,
    gae,
    group_relative,
    leave_one_out,
    whiten,
)
from alignjax.losses.kl import adaptive_kl, best_of_n_kl, k1, k2, k3, kl_loss, kl_penalty
from alignjax.losses.lm import dft, smoothed_nll, token_nll, z_loss
from alignjax.losses.policy import (
    approx_kl,
    clip_fraction,
    clipped_surrogate,
    importance_ratio,
    ppo_clip,
    reinforce,
    value_clip,
)
from alignjax.losses.preference import (
    dpo,
    hinge,
    implicit_reward,
    ipo,
    margin,
    preference_accuracy,
    robust_dpo,
)
from alignjax.losses.reward import bradley_terry, center_penalty, plackett_luce

__all__ = [
    "adaptive_kl",
    "approx_kl",
    "best_of_n_kl",
    "bradley_terry",
    "center_penalty",
    "clip_fraction",
    "clipped_surrogate",
    "dft",
    "discounted_returns",
    "dpo",
    "gae",
    "group_relative",
    "hinge",
    "implicit_reward",
    "importance_ratio",
    "ipo",
    "k1",
    "k2",
    "k3",
    "kl_loss",
    "kl_penalty",
    "leave_one_out",
    "margin",
    "plackett_luce",
    "ppo_clip",
    "preference_accuracy",
    "reinforce",
    "robust_dpo",
    "smoothed_nll",
    "token_nll",
    "value_clip",
    "whiten",
    "z_loss",
]
