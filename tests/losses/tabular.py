"""A problem small enough to be exact: three contexts of six answers, rewards and a reference."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

C, A = 3, 6
RNG = np.random.default_rng(7)
REWARD = RNG.normal(size=(C, A))
REF = np.log(RNG.dirichlet(np.full(A, 2.0), size=C))
PAIRS = np.array(list(itertools.permutations(range(A), 2)))
WIN = 1 / (1 + np.exp(-(REWARD[:, PAIRS[:, 0]] - REWARD[:, PAIRS[:, 1]])))  # [C, pairs]


def gibbs(reward, beta):
    return jax.nn.log_softmax(REF + reward / beta)


def distance(left, right):
    """Largest total variation over contexts of two log-policies."""
    return float(jnp.max(0.5 * jnp.sum(jnp.abs(jnp.exp(left) - jnp.exp(right)), -1)))
