"""Losses on next-token distributions of a student and a teacher: link o reduction.

Arrays: student_logits, teacher_logits [B, T, V], labels [B, T] where the data's tokens count too,
mask [B, T]. In place of the two arrays of logits there may be `divergence`, a function (beta,
temperature) -> [B, T]: `generalised_jsd` of distributions that never exist in full.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from alignjax import losses
from alignjax.compat.arrays import Arrays, Terms
from alignjax.compat.blocks import options as settings
from alignjax.compat.blocks import reductions
from alignjax.core import mean, shapes
from alignjax.losses import inputs

if TYPE_CHECKING:
    from alignjax.compat.recipe import Recipe


def logits(arrays: Arrays) -> tuple[jax.Array, jax.Array]:
    """(student, teacher) in fp32."""
    return inputs.as_float(arrays["student_logits"]), inputs.as_float(arrays["teacher_logits"])


def logprobs(
    student: jax.Array, teacher: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of softmax(logits / temperature), both [B, T, V]."""
    shapes.check_number("temperature", temperature, above=0)
    return (
        jax.nn.log_softmax(student / temperature, axis=-1),
        jax.nn.log_softmax(teacher / temperature, axis=-1),
    )


# --- links: the divergence at a token, [B, T] ---
def forward_kl(arrays: Arrays, *, temperature: float) -> jax.Array:
    """KL(teacher; student)."""
    return generalised_jsd(arrays, temperature=temperature, beta=0.0)


def reverse_kl(arrays: Arrays, *, temperature: float) -> jax.Array:
    """KL(student; teacher)."""
    return generalised_jsd(arrays, temperature=temperature, beta=1.0)


def generalised_jsd(arrays: Arrays, *, temperature: float, beta: float) -> jax.Array:
    """`losses.generalised_jsd`."""
    if "divergence" in arrays:
        found: jax.Array = arrays["divergence"](beta=beta, temperature=temperature)
        return inputs.masked("B T", arrays["mask"], divergence=found)[1]
    both = logprobs(*logits(arrays), temperature)
    return losses.generalised_jsd(*both, arrays["mask"], beta=beta)


def forward_kl_top_k(
    arrays: Arrays, *, temperature: float, distill_weight: float, top_k: int
) -> jax.Array:
    """distill_weight temperature^2 KL(teacher; student) over the teacher's top_k entries, all at 0
    (Tunix)."""
    weight = shapes.check_number("distill_weight", distill_weight, minimum=0, maximum=1)
    student, teacher = logits(arrays)
    if top_k > 0:
        teacher, entries = jax.lax.top_k(teacher, top_k)
        student = jnp.take_along_axis(student, entries, axis=-1)
    both = logprobs(student, teacher, temperature)
    return weight * temperature**2 * losses.forward_kl(*both, arrays["mask"])


LINKS: Mapping[str, Callable[..., jax.Array]] = {
    "forward_kl": forward_kl,
    "forward_kl_top_k": forward_kl_top_k,
    "generalised_jsd": generalised_jsd,
    "reverse_kl": reverse_kl,
}


# --- terms beside the main one ---
def label_nll(arrays: Arrays, *, distill_weight: float) -> Terms:
    """(1 - distill_weight) times -log p of the labels, a mean over tokens."""
    mask = arrays["mask"]
    student = jax.nn.log_softmax(logits(arrays)[0], axis=-1)
    of_labels = jnp.take_along_axis(student, arrays["labels"][..., None], axis=-1)[..., 0]
    nll = (1.0 - distill_weight) * losses.token_nll(of_labels, mask)
    return {"nll": mean.masked(nll, mask)}


TERMS = {"label_nll": label_nll}


def compute(recipe: "Recipe", arrays: Arrays, options: Mapping[str, Any]) -> Terms:
    """{term: Mean}."""
    link = settings.block(LINKS, "link", recipe.link)
    per_token = link(arrays, **settings.accepted(link, options))
    terms = {recipe.term: reductions.mean_of(per_token, arrays, recipe.reduction, options)}
    for name in recipe.terms:
        term = settings.block(TERMS, "term", name)
        terms |= term(arrays, **settings.accepted(term, options))
    return terms
