"""A policy's samples on fixed prompts: rewards, and the exact KL to its reference."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import keys
from alignjax.data import corpus, pipeline
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.parallel import hosts
from alignjax.rewards import learned
from alignjax.sampling import generate, transforms


class Drawn(NamedTuple):
    """One completion a prompt, as host arrays over N prompts; T tokens a row.

    kl: nats a completion, the sum over its tokens of KL(policy || reference) of the next-token
    distributions at the sampled prefixes, exact over the vocabulary.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    prompt_lengths: np.ndarray
    ended: np.ndarray
    kl: np.ndarray
    entropy: np.ndarray
    score: np.ndarray  # by the reward model; nan where none was given

    @property
    def completion_lengths(self) -> np.ndarray:
        """Tokens of each completion, EOS included."""
        return self.lengths - self.prompt_lengths


def make_sampler(
    model: models.Model,
    config: transforms.SamplingConfig,
    *,
    eos: int,
    pad: int,
    rows: int,
    max_drift: float = 0.0,
) -> Callable[..., Drawn]:
    """(policy, reference, prompts, seed, *, reward=None) -> Drawn.

    `rows` prompts are sampled at a time. The drift between sampler and scorer is checked on every
    batch, where the sampled law is the model's own.
    """
    run = generate.make_generate(model, config, eos=eos, pad=pad)
    temperature = config.temperature or 1.0
    score_rows = learned.learned(model)

    @jax.jit
    def measure(policy: Any, reference: Any, samples: generate.Samples) -> Any:
        batch, mask = learned.as_batch(samples), samples.mask
        heat = {"temperature": temperature}
        hidden = scoring.hidden_states(model, policy, batch)
        stats = scoring.stats_of(model, policy, hidden, batch["tokens"], **heat)
        if reference is None:
            kl = jnp.zeros_like(stats.logprob)
        else:
            kl = scoring.token_divergence(model, policy, hidden, reference, batch, **heat)
        drift = jnp.max(jnp.where(mask, jnp.abs(stats.logprob - samples.logprobs), 0.0))
        sums = (jnp.sum(jnp.where(mask, x, 0.0), axis=1) for x in (kl, stats.entropy))
        return *sums, drift

    def sample(
        policy: Any, reference: Any, prompts: corpus.Table, seed: int, *, reward: Any = None
    ) -> Drawn:
        key = keys.stream(seed, "evaluation")
        parts = []
        for number, (batch, real) in enumerate(pipeline.in_order(prompts, rows)):
            given = hosts.to_global(batch)
            samples = run(policy, given["prompts"], given["lengths"], keys.at(key, number))
            # A policy's divergence from itself needs no second model.
            other = None if reference is policy else reference
            kl, entropy, drift = measure(policy, other, samples)
            if not config.is_truncated:
                generate.check_drift(drift, generate.drift_limit(model, max_drift))
            columns = [samples.tokens, samples.lengths, samples.prompt_lengths, samples.ended]
            columns += [kl, entropy]
            missing = jnp.full(samples.lengths.shape, jnp.nan)
            columns.append(missing if reward is None else score_rows({"reward": reward}, samples))
            parts.append([x[:real] for x in hosts.to_host(columns)])
        joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
        return Drawn(*joined)

    return sample
