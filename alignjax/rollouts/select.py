"""Which prompts are sampled, and which groups are trained on: pure functions of arrays."""

import jax
import jax.numpy as jnp

from alignjax.losses import inputs


def informative_first(informative: jax.Array, count: int) -> jax.Array:
    """Numbers [count] of the groups to train on: the first informative ones, then others, in order.

    A fixed number of candidates, and no more draws where too few are informative: every step has
    the same shape and is a function of (seed, step). informative: [P] bool.

    Reference: Yu et al. (2025, DAPO), section 3.2, with a fixed budget.
    """
    return jnp.argsort(~inputs.gathered(informative), stable=True)[:count]


def by_difficulty(key: jax.Array, pass_rates: jax.Array, count: int, *, floor: float) -> jax.Array:
    """Numbers [count] of the prompts to sample, ascending: without replacement, weight p (1 - p).

    The weight is that of a prompt in the policy gradient of a 0/1 reward; the floor keeps prompts
    alive that look solved or hopeless. Gumbel top-k: the order statistics of log weight + Gumbel
    noise are draws without replacement (Kool et al. 2019).

    Args:
      pass_rates: [P], in [0, 1]; unknown ones at 1/2. floor: > 0, added to the weight.
    """
    rates = jnp.clip(inputs.gathered(pass_rates), 0.0, 1.0)
    weight = rates * (1.0 - rates) + floor
    noisy = jnp.log(weight) + jax.random.gumbel(key, weight.shape)
    return jnp.sort(jax.lax.top_k(noisy, count)[1])


def dead_share(p: jax.Array, size: int) -> jax.Array:
    """p^G + (1 - p)^G: the chance that G samples of a prompt solved at rate p all score alike."""
    return p**size + (1.0 - p) ** size
