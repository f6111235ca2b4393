"""Prefill and decode: completions of ragged prompts in one compiled program."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import errors, struct
from alignjax.models import model as models
from alignjax.sampling import draws, placement, transforms


@struct.pytree
class Samples:
    """Prompts with their completions, each row contiguous from the left, T = P + N.

    tokens [B, T]; mask [B, T]: true on the completion, its EOS included; logprobs [B, T]: of each
    completion token under the sampled distribution, nats; lengths [B]: prompt plus completion;
    prompt_lengths [B]; ended [B]: whether EOS was sampled before the limit.
    """

    tokens: jax.Array
    mask: jax.Array
    logprobs: jax.Array
    lengths: jax.Array
    prompt_lengths: jax.Array
    ended: jax.Array


def right_padded(tokens: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(positions, segments) [B, T] of rows that fill from the left up to their lengths."""
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None] + jnp.zeros_like(tokens)
    return positions, (positions < lengths[:, None]).astype(jnp.int32)


def drift_limit(model: models.Model, chosen: float = 0.0) -> float:
    """The largest drift that is no error, nats a token: `chosen`, or 10 roundings if that is 0."""
    return chosen or 10 * model.rounding


def check_drift(drift: Any, limit: float) -> None:
    """Stops the run where sampler and trainer disagree on what the sampler drew.

    Raises:
      errors.Failure: the largest difference of a token's log-probability, in nats, is above limit.
    """
    drift = float(drift)
    if not drift <= limit:
        raise errors.Failure(
            f"sampler and trainer log-probabilities differ by {drift:.3g} nats on a token; the "
            f"limit is {limit:g} (max_drift). Both must run the same model, precision and "
            "temperature; raise the limit only for low-precision compute."
        )


def make_generate(
    model: models.Model, config: transforms.SamplingConfig, *, eos: int, pad: int
) -> Callable[..., Samples]:
    """(params, prompts [B, P], lengths [B], key, *, rows=None) -> Samples: compiled once a shape.

    Prompts are right-padded; lengths count their tokens (at least 1). Rows stop at EOS one by one,
    the loop ends when all have. eos=-1 never stops.

    rows: [B] int, the rows' numbers, by default 0 to B - 1. A completion is a function of the
    parameters, its prompt, the key and its number alone, up to the rounding of logits: not of its
    place in the batch, the rows beside it or the mesh.
    """
    config.validate()

    @jax.jit
    def generate(
        params: Any,
        prompts: jax.Array,
        lengths: jax.Array,
        key: jax.Array,
        *,
        rows: jax.Array | None = None,
    ) -> Samples:
        count, width = prompts.shape
        numbers = jnp.arange(count, dtype=jnp.int32) + jnp.zeros_like(lengths)
        keys = draws.row_keys(key, numbers if rows is None else rows)
        new = config.max_new_tokens
        positions, segments = right_padded(prompts, lengths)
        cache = model.cache(count, width + new)
        hidden, cache = model.hidden(
            params, prompts, positions=positions, segments=segments, cache=cache
        )
        params = model.prepare(params)
        last = (lengths - 1)[:, None, None] + jnp.zeros_like(hidden[:, :1], jnp.int32)
        logits = draws.next_logits(model, config, params, jnp.take_along_axis(hidden, last, axis=1))

        def go_on(loop: Any) -> jax.Array:
            return (loop["step"] < new) & ~jnp.all(loop["ended"])

        def body(loop: Any) -> Any:
            step, ended = loop["step"], loop["ended"]
            token, logprob = draws.draw(keys, lengths + step, loop["logits"])
            live = ~ended
            token = jnp.where(live, token, pad)
            at = (0, step)
            hidden, cache = model.hidden(
                params,
                token[:, None],
                positions=(lengths + step)[:, None],
                segments=live.astype(jnp.int32)[:, None],
                cache=loop["cache"],
            )
            put = jax.lax.dynamic_update_slice
            return {
                "step": step + 1,
                "cache": cache,
                "logits": draws.next_logits(model, config, params, hidden),
                "tokens": put(loop["tokens"], token[:, None], at),
                "logprobs": put(loop["logprobs"], jnp.where(live, logprob, 0.0)[:, None], at),
                "count": loop["count"] + live,
                "ended": ended | (token == eos),
            }

        blank = jnp.broadcast_to(jnp.zeros_like(lengths)[:, None], (count, new))
        loop = jax.lax.while_loop(
            go_on,
            body,
            {
                "step": jnp.zeros((), jnp.int32),
                "cache": cache,
                "logits": logits,
                "tokens": blank + pad,
                "logprobs": blank.astype(jnp.float32),
                "count": jnp.zeros_like(lengths),
                "ended": jnp.zeros_like(lengths, jnp.bool_),
            },
        )
        return _join(prompts, lengths, loop, pad)

    if config.model_axis:
        return placement.moved(model, generate, config.model_axis)
    return generate


def _join(prompts: jax.Array, lengths: jax.Array, loop: Any, pad: int) -> Samples:
    """Completions moved next to their prompts."""
    width = prompts.shape[1]
    total = width + loop["tokens"].shape[1]
    slot = jnp.arange(total, dtype=jnp.int32)[None] + jnp.zeros_like(prompts[:, :1])
    after = slot - lengths[:, None]
    mask = (after >= 0) & (after < loop["count"][:, None])
    source = jnp.where(after < 0, jnp.minimum(slot, width - 1), width + jnp.maximum(after, 0))
    source = jnp.minimum(source, total - 1)

    def gather(left: jax.Array, right: jax.Array) -> jax.Array:
        return jnp.take_along_axis(jnp.concatenate([left, right], axis=1), source, axis=1)

    filled = slot < (lengths + loop["count"])[:, None]
    tokens = jnp.where(filled, gather(prompts, loop["tokens"]), pad)
    logprobs = gather(jnp.zeros_like(prompts, jnp.float32), loop["logprobs"])
    return Samples(
        tokens=tokens,
        mask=mask,
        logprobs=jnp.where(mask, logprobs, 0.0),
        lengths=lengths + loop["count"],
        prompt_lengths=lengths,
        ended=loop["ended"],
    )
