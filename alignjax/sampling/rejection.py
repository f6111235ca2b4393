"""Statistical rejection sampling: draws of one law kept so that they are of a better one."""

import numpy as np

from alignjax.core import shapes


def accepted(
    rewards: np.ndarray, count: int, *, beta: float, rng: np.random.Generator
) -> np.ndarray:
    """[P, count]: numbers of the draws of each prompt that are kept, in the order of acceptance.

    Draw i is kept with chance exp((r_i - r_max) / beta), r_max the largest reward of its prompt's
    draws that are left. Where a pass keeps too few the others are asked again, against the largest
    among them. Draws of ref that a first pass keeps are of ref exp(r / beta) / Z as D grows, and
    that pass keeps a share E exp((r - r_max) / beta); a prompt whose `count` is near D has hardly a
    choice left.

    Args:
      rewards: [P, D] float, reward units; -inf for draws that are never kept.
      count: draws kept of each prompt, 1 to D.
      beta: > 0, reward units per nat; towards 0 the best draws are kept.

    Raises:
      ValueError: rewards are not [P, D], count or beta out of range, or a prompt has fewer draws
        with a reward.

    Reference: Liu et al. 2023 (RSO), arXiv 2309.06657, section 3.3 and algorithm 1.
    """
    values = np.asarray(rewards, np.float64)
    shapes.check_number("beta", beta, above=0)
    if values.ndim != 2 or np.isnan(values).any() or np.isposinf(values).any():
        raise ValueError(
            f"rewards must be [P, D] numbers or -inf; got an array of shape {list(values.shape)} "
            "(rejection). Put -inf where there is no reward."
        )
    least = int(np.isfinite(values).sum(axis=1).min(initial=values.shape[1]))
    if not 1 <= count <= least:
        raise ValueError(
            f"count must be from 1 to the {least} draws of a prompt that have a reward; got "
            f"{count} (rejection). Draw more."
        )
    return np.stack([_of_prompt(row, count, beta, rng) for row in values]).astype(np.int32)


def _of_prompt(
    rewards: np.ndarray, count: int, beta: float, rng: np.random.Generator
) -> np.ndarray:
    kept: list[int] = []
    left = np.flatnonzero(np.isfinite(rewards))
    while len(kept) < count:
        chance = np.exp((rewards[left] - rewards[left].max()) / beta)
        found = left[rng.random(len(left)) < chance]
        kept.extend(found.tolist())
        left = np.setdiff1d(left, found)
    return np.array(kept[:count])
