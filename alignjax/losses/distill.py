"""Divergences between a student's and a teacher's next-token distributions, one per token.

Arguments are normalised log-probabilities [B, T, V] in nats. Where V is too large, the teacher's
top K entries stand in for it: arrays [B, T, K] completed by `with_tail`.
"""

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.losses import inputs


def _both(
    student: jax.Array, teacher: jax.Array, mask: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(mask, student, teacher) in fp32, equal where masked; no gradient into the teacher."""
    student, teacher = inputs.arrays("B T V", student_logprobs=student, teacher_logprobs=teacher)
    keep = inputs.mask_of(mask, student[..., 0], "B T")
    student, teacher = (jnp.where(keep[..., None], x, 0.0) for x in (student, teacher))
    return keep, student, jax.lax.stop_gradient(teacher)


def _kl(p: jax.Array, q: jax.Array) -> jax.Array:
    """sum_v p (log p - log q) from log-probabilities; entries with p = 0 add nothing."""
    return jnp.sum(jnp.exp(p) * jnp.where(p > -jnp.inf, p - q, 0.0), axis=-1)


def forward_kl(
    student_logprobs: jax.Array, teacher_logprobs: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """KL(teacher; student) per token, [B, T], nats, 0 where masked: covers the teacher's modes.

    Args:
      student_logprobs: [B, T, V] float, normalised log-probabilities.
      teacher_logprobs: [B, T, V] float; no gradient flows into it.
      mask: [B, T], 1 where counted; None counts all.

    Raises:
      ValueError: shapes differ, or mask is not 0/1.
    """
    _, student, teacher = _both(student_logprobs, teacher_logprobs, mask)
    return _kl(teacher, student)


def reverse_kl(
    student_logprobs: jax.Array, teacher_logprobs: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """KL(student; teacher) per token, [B, T], nats, 0 where masked: seeks one of its modes.

    With the reference as teacher it is the exact KL penalty of a token. Args, Raises: as
    `forward_kl`.
    """
    _, student, teacher = _both(student_logprobs, teacher_logprobs, mask)
    return _kl(student, teacher)


def generalised_jsd(
    student_logprobs: jax.Array,
    teacher_logprobs: jax.Array,
    mask: jax.Array | None = None,
    *,
    beta: float = 0.5,
) -> jax.Array:
    """beta KL(P; M) + (1 - beta) KL(Q; M) per token, [B, T], P teacher, Q student.

    M = beta P + (1 - beta) Q. Symmetric at 1/2 and at most log 2. At beta = 0 it is KL(P; Q), at 1
    KL(Q; P): the limits of jsd / beta and jsd / (1 - beta).

    Args:
      student_logprobs, teacher_logprobs, mask: as `forward_kl`.
      beta: in [0, 1].

    Raises:
      ValueError: shapes differ, beta outside [0, 1], mask not 0/1.

    Reference: Agarwal et al. (2024, GKD), arXiv 2306.13649, section 2.
    """
    shapes.check_number("beta", beta, minimum=0, maximum=1)
    if beta == 0:
        return forward_kl(student_logprobs, teacher_logprobs, mask)
    if beta == 1:
        return reverse_kl(student_logprobs, teacher_logprobs, mask)
    keep, student, teacher = _both(student_logprobs, teacher_logprobs, mask)
    mixed = jnp.logaddexp(teacher + jnp.log(beta), student + jnp.log1p(-beta))
    return jnp.where(keep, beta * _kl(teacher, mixed) + (1 - beta) * _kl(student, mixed), 0.0)


def with_tail(logprobs: jax.Array) -> jax.Array:
    """[B, T, K + 1]: K log-probabilities of some entries and that of all others together.

    For a top-K teacher: gather the student's log-probabilities at the teacher's K entries, complete
    both, and use any divergence. It is then a lower bound of that over the whole vocabulary, exact
    where student and teacher agree on the shape of the tail.

    Raises:
      ValueError: not [B, T, K].
    """
    (logprobs,) = inputs.arrays("B T K", logprobs=logprobs)
    seen = jax.nn.logsumexp(logprobs, axis=-1, keepdims=True)
    return jnp.concatenate([logprobs, inputs.log1mexp(seen)], axis=-1)


def minillm_advantages(
    student_logprobs: jax.Array,
    teacher_logprobs: jax.Array,
    mask: jax.Array,
    *,
    length_normalise: bool = True,
) -> jax.Array:
    """How much better the teacher likes the rest of the response, [B, T]; no gradient.

    Sum over later tokens t' > t of log p_teacher - log q_student, divided by their number if
    `length_normalise`: the long-range part of the gradient of KL(student; teacher). Use it with
    `ppo_clip`, and add `reverse_kl` for the single-step part.

    Args:
      student_logprobs: [B, T] float, nats, of the sampled tokens.
      teacher_logprobs: [B, T] float, nats.
      mask: [B, T], 1 on the response's tokens.

    Raises:
      ValueError: shapes differ, or mask is not 0/1.

    Reference: Gu et al. (2024, MiniLLM), arXiv 2306.08543, section 2.2.
    """
    keep, student, teacher = inputs.masked(
        "B T", mask, student_logprobs=student_logprobs, teacher_logprobs=teacher_logprobs
    )

    def later(x: jax.Array) -> jax.Array:
        whole = inputs.gathered(x, axis=1)
        return inputs.spread_like(jnp.cumsum(whole[:, ::-1], axis=-1)[:, ::-1] - whole, x)

    value = later(teacher - student)
    if length_normalise:
        value = value / jnp.maximum(later(keep.astype(value.dtype)), 1.0)
    return jax.lax.stop_gradient(jnp.where(keep, value, 0.0))
