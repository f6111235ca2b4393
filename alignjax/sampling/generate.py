"""Prefill and decode: completions of ragged prompts in one compiled program."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from alignjax.core import errors, shapes, struct
from alignjax.models import cache_rows
from alignjax.models import model as models
from alignjax.sampling import (
    chunked,
    draws,
    placement,
    prefill,
    ragged,
    table,
    transforms,
)


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
    model: models.Model,
    config: transforms.SamplingConfig,
    *,
    eos: int | Sequence[int],
    pad: int,
    samples_per_prompt: int = 1,
    text: table.Text | None = None,
) -> Callable[..., Samples]:
    """(params, prompts [P, W], lengths [P], key, *, rows=None, options=None) -> Samples of B = P G.

    Prompts are right-padded; lengths count their tokens (at least 1). Rows stop one by one, the
    loop ends when all have. One compilation serves a shape.

    A completion is a function of the parameters, its prompt, the key and its row's number alone, up
    to the rounding of logits: not of its place in the batch, the rows beside it or the mesh.

    Args:
      eos: the id, or ids, at which a row ends; it counts as part of the completion. -1 never ends.
      pad: what stands behind the rows.
      samples_per_prompt: G completions of every prompt, group-major: row p G + g is of prompt p.
        Prompts are read once; the rows are those of prompts that stand there G times.

    Of a call: rows: [B] int, the rows' numbers, by default 0 to B - 1. options: a
    `transforms.RowOptions`, or None.
    """
    config.validate()
    shapes.check_number("samples_per_prompt", samples_per_prompt, minimum=1)
    ends, group = draws.end_ids(eos), samples_per_prompt
    if config.is_chunked:
        sampler = ragged.Sampler(model, config, ends, pad, group)
        return _in_chunks(sampler, text)

    @jax.jit
    def generate(
        params: Any,
        prompts: jax.Array,
        lengths: jax.Array,
        key: jax.Array,
        *,
        rows: jax.Array | None = None,
        options: transforms.RowOptions | None = None,
    ) -> Samples:
        new, width = config.max_new_tokens, prompts.shape[1]
        logits, cache = prefill.read_prompts(model, params, prompts, lengths, width + new, group)
        prompts, lengths = (cache_rows.repeated(x, group) for x in (prompts, lengths))
        count, params = len(lengths), model.prepare(params)
        keys = draws.row_keys(key, draws.numbers(lengths, rows), options)
        limit = transforms.limits(options, new)

        def go_on(loop: Any) -> jax.Array:
            return (loop["step"] < new) & jnp.any(loop["live"])

        def body(loop: Any) -> Any:
            step, live = loop["step"], loop["live"]
            logits = transforms.final_logits(loop["logits"], config, options)
            token, logprob = draws.draw(keys, lengths + step, logits)
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
            ended = live & draws.is_end(token, ends)
            return {
                "step": step + 1,
                "cache": cache,
                "logits": draws.logits(model, params, hidden),
                "tokens": put(loop["tokens"], token[:, None], at),
                "logprobs": put(loop["logprobs"], jnp.where(live, logprob, 0.0)[:, None], at),
                "count": loop["count"] + live,
                "ended": loop["ended"] | ended,
                "live": live & ~ended & (step + 1 < limit),
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
                "live": jnp.ones_like(lengths, jnp.bool_),
            },
        )
        return _join(prompts, lengths, loop, pad)

    return _placed(model, config, generate)


def _in_chunks(sampler: ragged.Sampler, text: table.Text | None) -> Callable[..., Samples]:
    """`make_generate` with the host between chunks of steps."""
    chunked.check(sampler.model, sampler.config, text)
    run = chunked.make_completions(sampler, text)

    @jax.jit
    def join(prompts: jax.Array, lengths: jax.Array, columns: Any) -> Samples:
        prompts, lengths = (cache_rows.repeated(x, sampler.group) for x in (prompts, lengths))
        return _join(prompts, lengths, columns, sampler.pad)

    def generate(
        params: Any, prompts: jax.Array, lengths: jax.Array, key: jax.Array, **options: Any
    ) -> Samples:
        return join(prompts, lengths, run(params, prompts, lengths, key, **options))

    return _placed(sampler.model, sampler.config, generate)


def _placed(
    model: models.Model, config: transforms.SamplingConfig, generate: Callable[..., Samples]
) -> Callable[..., Samples]:
    """`generate` on the mesh that sampling is configured for."""
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
