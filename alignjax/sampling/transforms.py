"""From logits to the distribution that is sampled: temperature, then top-k, then top-p."""

import dataclasses

import jax
import jax.numpy as jnp

from alignjax.core import shapes
from alignjax.parallel import axes


@dataclasses.dataclass(kw_only=True)
class SamplingConfig:
    """How completions are sampled."""

    max_new_tokens: int = 18
    temperature: float = 1.0  # divides the logits; 0 is greedy
    top_k: int = 0  # keep the k most likely tokens; 0 keeps all
    top_p: float = 1.0  # keep the smallest set of most likely tokens with this mass
    model_axis: int = 0  # tensor parallelism while sampling; 0 samples on the run's own mesh

    def validate(self) -> None:
        shapes.check_number("sampling.max_new_tokens", self.max_new_tokens, minimum=1)
        shapes.check_number("sampling.temperature", self.temperature, minimum=0)
        shapes.check_number("sampling.top_k", self.top_k, minimum=0)
        shapes.check_number("sampling.top_p", self.top_p, above=0, maximum=1)
        shapes.check_number("sampling.model_axis", self.model_axis, minimum=0)

    @property
    def is_truncated(self) -> bool:
        """Whether tokens are cut off, so that the distribution differs from the model's own."""
        return self.top_k > 0 or self.top_p < 1 or self.temperature == 0


def final_logits(logits: jax.Array, config: SamplingConfig) -> jax.Array:
    """Logits [B, V] fp32 of the sampled distribution; tokens cut off get -inf.

    Reference: Fan et al. 2018 (top-k); Holtzman et al. 2020, section 3.1 (top-p).
    """
    # Sorting takes the whole vocabulary; drawing from all of it does not.
    where = "batch slot" if config.is_truncated else "batch vocab"
    logits = axes.shard(logits.astype(jnp.float32), where)
    if config.temperature == 0:
        best = jnp.argmax(logits, axis=-1)[:, None]
        return jnp.where(jnp.arange(logits.shape[-1])[None] == best, 0.0, -jnp.inf)
    logits = logits / config.temperature
    if 0 < config.top_k < logits.shape[-1]:
        smallest = jax.lax.top_k(logits, config.top_k)[0][:, -1:]
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    if config.top_p < 1:
        ordered = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
        probs = jax.nn.softmax(ordered, axis=-1)
        # A token stays while the mass before it is short of top_p: the most likely always does.
        before = jnp.cumsum(probs, axis=-1) - probs
        smallest = jnp.min(
            jnp.where(before < config.top_p, ordered, jnp.inf), axis=-1, keepdims=True
        )
        logits = jnp.where(logits < smallest, -jnp.inf, logits)
    return logits
