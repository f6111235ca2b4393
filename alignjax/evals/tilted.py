"""The best policies at each KL from a reference, estimated from the reference's own draws."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

FEWEST = 8.0  # effective draws a prompt below which a point is not believed
BETAS = tuple(np.geomspace(256.0, 0.05, 80).tolist())


class Curve(NamedTuple):
    """Points of the optimum by falling beta: kl [K] in nats a completion, reward [K] in the
    reward's unit, effective [K] draws a prompt. Means over prompts."""

    beta: np.ndarray
    kl: np.ndarray
    reward: np.ndarray
    effective: np.ndarray

    def reward_at(self, kl: float) -> float:
        """The reward at a KL, linear in sqrt(KL) between points; nan beyond the last one."""
        if not 0 <= kl <= self.kl[-1]:
            return float("nan")
        return float(np.interp(np.sqrt(kl), np.sqrt(self.kl), self.reward))


def optimum(rewards: np.ndarray, betas: Sequence[float] = BETAS) -> Curve:
    """The curve of pi_beta(y|x) = p(y|x) exp(r(x, y) / beta) / Z_beta(x), from draws y of p.

        w_i = softmax_i(r_i / beta),  E r = sum_i w_i r_i,  KL = log M + sum_i w_i log w_i

    It is exact for the M draws as the reference, and consistent for the reference itself: with few
    draws it lies below. It begins at beta = inf, and ends where the mean of 1 / sum_i w_i^2, the
    effective draws of a prompt, falls below `FEWEST`.

    Args:
      rewards: [P, M], of M draws for each of P prompts.
      betas: positive, in units of reward per nat.

    Raises:
      ValueError: there are fewer than two draws, or a reward is not finite.

    Reference: Korbak et al. 2022, RL with KL penalties is better viewed as Bayesian inference,
    equation 5.
    """
    rewards = np.asarray(rewards, np.float64)
    if rewards.ndim != 2 or rewards.shape[1] < 2 or not np.isfinite(rewards).all():
        raise ValueError(
            f"rewards must be finite and [P, M] with M >= 2; got {rewards.shape} (tilted.optimum)."
        )
    points = [(np.inf, 0.0, float(rewards.mean()), float(rewards.shape[1]))]
    for beta in sorted(betas, reverse=True):
        scaled = (rewards - rewards.max(1, keepdims=True)) / beta
        weights = np.exp(scaled)
        weights /= weights.sum(1, keepdims=True)
        logs = np.log(np.maximum(weights, 1e-300))
        effective = float((1 / (weights**2).sum(1)).mean())
        if effective < FEWEST:
            break
        kl = float((np.log(rewards.shape[1]) + (weights * logs).sum(1)).mean())
        points.append((beta, max(kl, 0.0), float((weights * rewards).sum(1).mean()), effective))
    return Curve(*(np.array(column) for column in zip(*points, strict=True)))
