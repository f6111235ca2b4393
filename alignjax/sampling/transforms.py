"""From logits to the distribution that is sampled: temperature, then top-k, then top-p."""

import dataclasses

import jax
import jax.numpy as jnp

from alignjax.core import shapes, struct
from alignjax.parallel import axes


@dataclasses.dataclass(kw_only=True)
class SamplingConfig:
    """How completions are sampled."""

    max_new_tokens: int = 18
    temperature: float = 1.0  # divides the logits; 0 is greedy
    top_k: int = 0  # keep the k most likely tokens; 0 keeps all
    top_p: float = 1.0  # keep the smallest set of most likely tokens with this mass
    model_axis: int = 0  # tensor parallelism while sampling; 0 samples on the run's own mesh
    rungs: int = 1  # sizes, by halves, to which rows and their cache shrink; 1 keeps them whole
    slots: int = 0  # rows decoded at once; others take the places of those that end. 0: all rows
    chunk: int = 16  # steps between which rows that have ended are looked for
    stop: tuple[str, ...] = ()  # texts that end a row; needs the text of tokens

    def validate(self) -> None:
        shapes.check_number("sampling.max_new_tokens", self.max_new_tokens, minimum=1)
        shapes.check_number("sampling.temperature", self.temperature, minimum=0)
        shapes.check_number("sampling.top_k", self.top_k, minimum=0)
        shapes.check_number("sampling.top_p", self.top_p, above=0, maximum=1)
        shapes.check_number("sampling.model_axis", self.model_axis, minimum=0)
        shapes.check_number("sampling.rungs", self.rungs, minimum=1)
        shapes.check_number("sampling.slots", self.slots, minimum=0)
        shapes.check_number("sampling.chunk", self.chunk, minimum=1)
        if not all(isinstance(text, str) and text for text in self.stop):
            raise ValueError(
                f"sampling.stop must hold texts that are not empty; got {self.stop!r} (sampling)."
            )

    @property
    def is_chunked(self) -> bool:
        """Whether the host looks at rows between chunks of steps: else one program does all."""
        return self.rungs > 1 or self.slots > 0 or bool(self.stop)

    @property
    def is_truncated(self) -> bool:
        """Whether tokens are cut off, so that the distribution differs from the model's own."""
        return self.top_k > 0 or self.top_p < 1 or self.temperature == 0


@struct.pytree
class RowOptions:
    """Options of single rows, each an array [B] in place of the configuration's, or None.

    temperature, top_k, top_p: as in SamplingConfig; a temperature of 0 is greedy. seed: the row is
    drawn as by a call with the key jax.random.key(seed). limit: new tokens at most, from 1 to
    max_new_tokens.
    """

    temperature: jax.Array | None = None
    top_k: jax.Array | None = None
    top_p: jax.Array | None = None
    seed: jax.Array | None = None
    limit: jax.Array | None = None


NO_OPTIONS = RowOptions()
LEAST_MASS = 1e-9  # a top_p that keeps the most likely token alone


def limits(options: RowOptions | None, new: int) -> jax.Array | int:
    """New tokens of a row at most, [B] or one number for all."""
    return new if options is None or options.limit is None else jnp.minimum(options.limit, new)


def final_logits(
    logits: jax.Array, config: SamplingConfig, options: RowOptions | None = None
) -> jax.Array:
    """Logits [B, V] fp32 of the sampled distribution; tokens cut off get -inf.

    Reference: Fan et al. 2018 (top-k); Holtzman et al. 2020, section 3.1 (top-p).
    """
    own, logits = options or NO_OPTIONS, logits.astype(jnp.float32)
    by_row = any(x is not None for x in (own.temperature, own.top_k, own.top_p))
    if not config.is_truncated and not by_row:
        return axes.shard(logits, "batch vocab") / config.temperature
    logits = axes.shard(logits, "batch slot")  # sorting takes the whole vocabulary
    best = jnp.argmax(logits, axis=-1)[:, None]
    greedy = jnp.where(jnp.arange(logits.shape[-1])[None] == best, 0.0, -jnp.inf)
    if own.temperature is None and config.temperature == 0:
        return greedy
    temperature = config.temperature if own.temperature is None else own.temperature[:, None]
    is_greedy = jnp.asarray(temperature) <= 0
    logits = logits / jnp.where(is_greedy, 1.0, temperature)
    logits = _top_k(logits, config.top_k if own.top_k is None else own.top_k[:, None])
    logits = _top_p(logits, config.top_p if own.top_p is None else own.top_p[:, None])
    return jnp.where(is_greedy, greedy, logits)


def _top_k(logits: jax.Array, k: jax.Array | int) -> jax.Array:
    """The logits with all but the k largest of a row cut off; k: one number or [B, 1], 0 is all."""
    size = logits.shape[-1]
    if isinstance(k, int):
        if not 0 < k < size:
            return logits
        smallest = jax.lax.top_k(logits, k)[0][:, -1:]
    else:
        ordered = jnp.sort(logits, axis=-1)
        at = jnp.where((k > 0) & (k < size), size - k, 0)
        smallest = jnp.take_along_axis(ordered, at, axis=-1)
    return jnp.where(logits < smallest, -jnp.inf, logits)


def _top_p(logits: jax.Array, mass: jax.Array | float) -> jax.Array:
    """The logits with all but the most likely tokens of this mass cut off; mass: one or [B, 1]."""
    if not isinstance(mass, jax.Array) and mass >= 1:
        return logits
    ordered = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
    probs = jax.nn.softmax(ordered, axis=-1)
    # A token stays while the mass before it is short of top_p: the most likely always does.
    before = jnp.cumsum(probs, axis=-1) - probs
    kept = (before < jnp.maximum(mass, LEAST_MASS)) | (mass >= 1)
    smallest = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits < smallest, -jnp.inf, logits)
