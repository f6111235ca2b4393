"""Whole rows scored by a model: every array is aligned with the token that it is about.

Position t holds the model's prediction of token t from the tokens before t. Position 0 and the
first token of each packed segment have no such state: their entries are 0 and never count.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import mean
from alignjax.losses import distill, logprobs, tiled_divergence, top_k
from alignjax.models import model as models
from alignjax.parallel import axes

Batch = Mapping[str, jax.Array]


def hidden_states(model: models.Model, params: Any, batch: Batch) -> jax.Array:
    """[B, T, D]: the state after each token, from which the next one is predicted."""
    hidden, _ = model.hidden(
        params, batch["tokens"], positions=batch["positions"], segments=batch["segments"]
    )
    return hidden


def hidden_and_penalties(
    model: models.Model, params: Any, batch: Batch
) -> tuple[jax.Array, dict[str, mean.Mean]]:
    """The same states, and the model's own losses (a router's) as terms for the objective.

    Each is a mean over all real tokens, those of prompts too; there are none for most models.
    """
    places = {"positions": batch["positions"], "segments": batch["segments"]}
    if model.hidden_and_penalties is None:
        return hidden_states(model, params, batch), {}
    states, penalties = model.hidden_and_penalties(params, batch["tokens"], **places)
    penalties = {name: axes.shard(x, "batch slot") for name, x in penalties.items()}
    real = batch["segments"] > 0
    return states, {name: mean.masked(x, real) for name, x in penalties.items()}


def counted(batch: Batch) -> jax.Array:
    """[B, T] bool: tokens of the loss mask that have a predecessor in their own segment."""
    segments = batch["segments"]
    follows = (align(segments) == segments) & (segments > 0)
    return follows & (batch["loss_mask"] != 0)


def align(x: jax.Array) -> jax.Array:
    """[B, T] of states as [B, T] of the tokens that they predict; the first token gets 0."""
    return jnp.pad(axes.shard(x, "batch slot")[:, :-1], [(0, 0), (1, 0)])


def token_stats(
    model: models.Model, params: Any, batch: Batch, **options: Any
) -> logprobs.TokenStats:
    """Log-probability, entropy and the other moments of every token [B, T] under the model.

    options: temperature, want, mask, as in `stats_of`.
    """
    hidden = hidden_states(model, params, batch)
    return stats_of(model, params, hidden, batch["tokens"], **options)


def answer_logprobs(
    model: models.Model, params: Any, batch: Batch, *, temperature: float = 1.0
) -> jax.Array:
    """[B, T] log-probabilities of the tokens that count, nats; 0 elsewhere."""
    options: Any = {"temperature": temperature, "want": ("logprob",), "mask": counted(batch)}
    return token_stats(model, params, batch, **options).logprob


def stats_of(
    model: models.Model,
    params: Any,
    hidden: jax.Array,
    tokens: jax.Array,
    *,
    temperature: float = 1.0,
    want: Sequence[str] = logprobs.FIELDS,
    mask: jax.Array | None = None,
) -> logprobs.TokenStats:
    """The same from states [B, T, D] that are known already.

    want: the fields to compute; others are None. mask: [B, T], the tokens whose statistics are
    read; those of the others are 0 and cost nothing. None is all.
    """
    stats = logprobs.token_stats(
        hidden,
        model.unembedding(params),
        _ahead(tokens),
        temperature=temperature,
        softcap=model.logit_softcap,
        tile=model.logit_tile,
        want=want,
        mask=None if mask is None else _ahead(mask),
    )
    return jax.tree.map(align, stats)


def _ahead(x: jax.Array) -> jax.Array:
    """[B, T] of tokens as [B, T] of the states that predict them."""
    return jnp.pad(x[:, 1:], [(0, 0), (0, 1)])


def token_values(model: models.Model, params: Any, batch: Batch) -> jax.Array:
    """[B, T] fp32: the scalar head before each token, that is the value of its prefix."""
    return align(model.scalar(params, hidden_states(model, params, batch)))


def sequence_scores(model: models.Model, params: Any, batch: Batch) -> jax.Array:
    """[B] fp32: the scalar head at the last real token of each row (one segment a row).

    [B, C] of a head with C outputs.
    """
    return scores_and_penalties(model, params, batch)[0]


def scores_and_penalties(
    model: models.Model, params: Any, batch: Batch
) -> tuple[jax.Array, dict[str, mean.Mean]]:
    """The same, and the model's own losses as terms for the objective."""
    hidden, penalties = hidden_and_penalties(model, params, batch)
    scores = model.scalar(params, hidden)
    scores = axes.shard(scores, "batch slot" if scores.ndim == 2 else "batch slot choice")
    slots = jnp.arange(scores.shape[1])[None]
    last = jnp.max(jnp.where(batch["segments"] > 0, slots, -1), axis=1, keepdims=True)
    at_last = slots == last
    at_last = at_last if scores.ndim == 2 else at_last[:, :, None]
    return jnp.sum(jnp.where(at_last, scores, 0.0), axis=1), penalties


def token_divergence(
    model: models.Model,
    params: Any,
    hidden: jax.Array,
    other: Any,
    batch: Batch,
    *,
    beta: float = 1.0,
    temperature: float = 1.0,
    other_model: models.Model | None = None,
    mask: jax.Array | None = None,
) -> jax.Array:
    """[B, T] divergence of each token's next-token distribution, nats: KL(params || other).

    hidden: the states [B, T, D] that `params` gives the batch, as for `stats_of`. other_model: that
    of `other`, where it is another one over the same vocabulary. beta: as of
    `losses.token_divergence`; the gradient flows into hidden and params alone. mask: as of
    `stats_of`.
    """
    second = model if other_model is None else other_model
    divergence = tiled_divergence.token_divergence(
        hidden,
        model.unembedding(params),
        hidden_states(second, other, batch),
        second.unembedding(other),
        beta=beta,
        temperature=temperature,
        softcap=model.logit_softcap,
        other_softcap=second.logit_softcap,
        tile=model.logit_tile,
        mask=None if mask is None else _ahead(mask),
    )
    return align(divergence)


def top_divergence(
    model: models.Model,
    params: Any,
    hidden: jax.Array,
    other: Any,
    batch: Batch,
    *,
    count: int,
    beta: float = 1.0,
    temperature: float = 1.0,
    other_model: models.Model | None = None,
) -> jax.Array:
    """[B, T] the same of the `count` tokens that `other` finds most likely, and all others as one.

    A lower bound of `token_divergence`. Arguments as there.
    """
    second = model if other_model is None else other_model
    heads = (
        (model, hidden, model.unembedding(params)),
        (second, hidden_states(second, other, batch), second.unembedding(other)),
    )
    options: list[dict[str, Any]] = [
        {"temperature": temperature, "softcap": m.logit_softcap, "tile": model.logit_tile}
        for m, _, _ in heads
    ]
    tokens = top_k.top_tokens(*heads[1][1:], count, **options[1])
    student, teacher = (
        top_k.logprobs_with_tail(*head[1:], tokens, **own)
        for head, own in zip(heads, options, strict=True)
    )
    return align(distill.generalised_jsd(student, teacher, beta=beta))


def compared(values: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(chosen, rejected, mask): the values [B, K, ...] of the answers compared, [B, P, ...].

    The mask is [B, P].

    The batch lists P comparisons of a prompt's K answers in `preferred` [B, P, 2], the better one
    first, and marks the real ones in `pair_mask` [B, P]. Without them answer 0 beats answer 1.
    Reading all comparisons off one forward pass costs K rows, not 2 P.
    """
    if "preferred" not in batch:
        chosen, rejected = values[:, :1], values[:, 1:2]
        first = chosen.reshape(*chosen.shape[:2], -1)[:, :, 0]
        return chosen, rejected, jnp.ones_like(first, jnp.bool_)
    preferred = batch["preferred"].reshape(*batch["preferred"].shape, *[1] * (values.ndim - 2))
    chosen, rejected = (
        jnp.take_along_axis(values, preferred[:, :, side], axis=1) for side in (0, 1)
    )
    return chosen, rejected, batch["pair_mask"]


def flatten_choices(batch: Batch) -> dict[str, Any]:
    """[B, K, ...] arrays of K answers a prompt as [B K, ...] rows; [B] arrays stay."""
    return {
        name: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]) if x.ndim >= 3 else x
        for name, x in batch.items()
    }
