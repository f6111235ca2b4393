"""Rewards computed on the hosts: rules, verifiers, a world's own reward."""

from collections.abc import Callable

import jax
import numpy as np

from alignjax.models import model as models
from alignjax.parallel import hosts
from alignjax.rewards import learned
from alignjax.sampling import generate
from alignjax.training import algorithm


def hosted(score: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> learned.RewardFn:
    """A reward by a function of NumPy arrays, (tokens [N, T], lengths [N]) -> [N].

    Each process scores the rows that its own devices hold, so the function must score every row
    independently.
    """

    def reward(
        frozen: models.Frozen, samples: generate.Samples, columns: algorithm.Batch
    ) -> jax.Array:
        own = (hosts.to_local(x) for x in (samples.tokens, samples.lengths))
        scores = {"score": np.asarray(score(*own), np.float32)}
        return hosts.to_global(scores, samples.tokens.shape[0])["score"]

    return reward
