"""Losses for pairs and samples of the current policy, one per prompt.

Online DPO is `dpo` (or any loss on pairs) on two samples of the policy, ordered by a judge.
"""

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.losses import inputs, preference

LINKS = {"dpo": preference.dpo, "ipo": preference.ipo}


def xpo(
    chosen_logratio: jax.Array,
    rejected_logratio: jax.Array,
    reference_sample_logprobs: jax.Array,
    *,
    beta: float,
    optimism: float,
    link: str = "dpo",
) -> jax.Array:
    """Exploratory preference optimisation, [B]: `dpo` + optimism * log pi(y~|x), y~ from reference.

    Minimising the second term moves mass away from what the reference already prefers.

    Args:
      chosen_logratio, rejected_logratio: [B] float, nats, of samples of policy and reference.
      reference_sample_logprobs: [B] float, nats: log pi of the reference's sample, summed.
      beta: > 0.
      optimism: alpha >= 0.
      link: "dpo", the paper's, or "ipo": the loss on the pair.

    Raises:
      ValueError: shapes differ, beta <= 0, optimism < 0, unknown link.

    Reference: Xie et al. (2024, XPO), arXiv 2405.21046, algorithm 1.
    """
    shapes.check_number("optimism", optimism, minimum=0)
    shapes.check_choice("link", link, LINKS)
    losses = LINKS[link](chosen_logratio, rejected_logratio, beta=beta)
    shapes.check("reference_sample_logprobs", reference_sample_logprobs, "B", {"B": losses.size})
    return losses + optimism * inputs.as_float(reference_sample_logprobs)


def nash_md(
    logprobs: jax.Array,
    reference_logprobs: jax.Array,
    preferences: jax.Array,
    mask: jax.Array | None = None,
    *,
    beta: float,
) -> jax.Array:
    """Nash mirror descent by policy gradient, [B].

    -sum_t (P - 1/2 - beta log(pi / ref)_t) log pi_t.

    P is the probability that the policy's sample beats one of the geometric mixture of policy and
    reference (`geometric_mixture`). No gradient flows into P or the log-ratio.

    Args:
      logprobs: [B, T] float, nats, of the policy's sample.
      reference_logprobs: [B, T] float, nats.
      preferences: [B] float in [0, 1].
      mask: [B, T], 1 on the response's tokens; None counts all.
      beta: >= 0, weight of the KL to the reference.

    Raises:
      ValueError: shapes differ, beta < 0, mask not 0/1.

    Reference: Munos et al. (2023, Nash-MD), arXiv 2312.00886.
    """
    shapes.check_number("beta", beta, minimum=0)
    _, new, reference = inputs.masked(
        "B T", mask, logprobs=logprobs, reference_logprobs=reference_logprobs
    )
    shapes.check("preferences", preferences, "B", {"B": new.shape[0]})
    centred = inputs.as_float(preferences)[:, None] - 0.5
    weight = jax.lax.stop_gradient(centred - beta * (new - reference))
    return -jnp.sum(weight * new, axis=-1)


def geometric_mixture(logits: jax.Array, reference_logits: jax.Array, *, mix: float) -> jax.Array:
    """Log-probabilities [..., V] of the mixture proportional to pi^(1 - mix) ref^mix.

    Args:
      logits, reference_logits: [..., V] float, of policy and reference.
      mix: in [0, 1].

    Raises:
      ValueError: shapes differ, mix outside [0, 1].

    Reference: Munos et al. (2023, Nash-MD), arXiv 2312.00886.
    """
    shapes.check_number("mix", mix, minimum=0, maximum=1)
    shapes.check("reference_logits", reference_logits, "... V", {"V": jnp.shape(logits)[-1]})
    policy, reference = (jax.nn.log_softmax(inputs.as_float(x)) for x in (logits, reference_logits))
    return jax.nn.log_softmax((1 - mix) * policy + mix * reference)
