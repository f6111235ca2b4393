"""Language-model losses per token, from what the log-prob primitive returns.

All arrays are [B, T], aligned with the token they predict, in nats; mask is 1 on trained tokens.
"""

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.losses import inputs


def token_nll(token_logprobs: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Negative log-likelihood per token, [B, T]: -log p, 0 where masked.

    Args:
      token_logprobs: [B, T] float, nats.
      mask: [B, T], 1 on trained tokens (all, or the completion's); None counts all.

    Raises:
      ValueError: shapes differ, or mask is not 0/1.
    """
    _, logprobs = inputs.masked("B T", mask, token_logprobs=token_logprobs)
    return -logprobs


def smoothed_nll(
    token_logprobs: jax.Array,
    logsumexp: jax.Array,
    mean_logits: jax.Array,
    mask: jax.Array | None = None,
    *,
    label_smoothing: float,
) -> jax.Array:
    """Cross-entropy with smoothed labels, [B, T]: (1 - e) (-log p) + e (logsumexp - mean logit).

    The target is (1 - e) on the token plus e / V on every entry of the vocabulary.

    Args:
      token_logprobs: [B, T] float, nats.
      logsumexp: [B, T] float, log of the normaliser.
      mean_logits: [B, T] float, mean of the logits over the vocabulary.
      mask: [B, T], 1 on trained tokens; None counts all.
      label_smoothing: e in [0, 1).

    Raises:
      ValueError: shapes differ, label_smoothing outside [0, 1), mask not 0/1.

    Reference: Szegedy et al. (2016), section 7.
    """
    e = shapes.check_number("label_smoothing", label_smoothing, minimum=0, below=1)
    _, logprobs, logsumexp, mean = inputs.masked(
        "B T", mask, token_logprobs=token_logprobs, logsumexp=logsumexp, mean_logits=mean_logits
    )
    return -(1 - e) * logprobs + e * (logsumexp - mean)


def z_loss(
    logsumexp: jax.Array, mask: jax.Array | None = None, *, coefficient: float = 1e-4
) -> jax.Array:
    """coefficient * logsumexp^2 per token, [B, T]: keeps the normaliser of the softmax near 1.

    Args:
      logsumexp: [B, T] float, log of the normaliser, nats.
      mask: [B, T], 1 on trained tokens; None counts all.
      coefficient: >= 0.

    Raises:
      ValueError: shapes differ, coefficient < 0, mask not 0/1.

    Reference: Chowdhery et al. (2022, PaLM), section 5 (1e-4).
    """
    shapes.check_number("coefficient", coefficient, minimum=0)
    _, logsumexp = inputs.masked("B T", mask, logsumexp=logsumexp)
    return coefficient * jnp.square(logsumexp)


def dft(token_logprobs: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Dynamic fine-tuning, [B, T]: -stop_gradient(p) log p, so that unlikely tokens pull less.

    Args:
      token_logprobs: [B, T] float, nats, log p.
      mask: [B, T], 1 on trained tokens; None counts all.

    Raises:
      ValueError: shapes differ, or mask is not 0/1.

    Reference: Wu et al. (2025, DFT), arXiv 2508.05629.
    """
    _, logprobs = inputs.masked("B T", mask, token_logprobs=token_logprobs)
    return -jax.lax.stop_gradient(jnp.exp(logprobs)) * logprobs
