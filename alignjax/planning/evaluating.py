"""The programs of `alignjax evaluate`, in shapes: what judges a finished run."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alignjax.evals import preferences
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.planning import analytic
from alignjax.rewards import learned
from alignjax.sampling import generate

ROWS = 64  # at once, as the command has it; more where the mesh has more shards of a batch


class Program(NamedTuple):
    """A jitted function, and what it is called with by category.

    passes: how often the policy reads whole rows; plain: the same of trees without adapters.
    heads: how often the policy makes logits, once where they exist at once; of the others every
      pass does, if any does.
    """

    name: str
    run: Any
    parts: tuple[tuple[str, Any], ...]
    passes: int
    plain: int
    heads: int


def rows_at_once(shards: int) -> int:
    """Rows of one call: a multiple of the batch's shards."""
    return -(-ROWS // shards) * shards


def likelihood(model: models.Model, policy: Any, batch: Any) -> Program:
    """Negative log-likelihood of demonstrations and documents (evals/likelihood.py)."""

    def score(params: Any, batch: Any) -> Any:
        mask = scoring.counted(batch)
        logprobs = scoring.token_stats(model, params, batch).logprob
        return -jnp.sum(jnp.where(mask, logprobs, 0.0), axis=1), jnp.sum(mask, axis=1)

    parts = (("parameters", policy), ("batch", batch))
    return Program("evaluate likelihood", jax.jit(score), parts, 1, 0, 1)


def reward_accuracy(model: models.Model, reward: Any, batch: Any) -> Program:
    """Scores of pairs by a reward model."""
    parts = (("parameters", reward), ("batch", batch))
    return Program("evaluate pairs", preferences.reward_scores(model), parts, 1, 0, 0)


def implicit_accuracy(model: models.Model, policy: Any, reference: Any, batch: Any) -> Program:
    """Scores of pairs by log-ratios."""
    score = preferences.implicit_scores(model)
    run = jax.jit(lambda policy, reference, batch: score((policy, reference), batch))
    parts = (("parameters", policy), ("frozen", reference), ("batch", batch))
    return Program("evaluate pairs", run, parts, 1, 1, 1)


def divergence(
    model: models.Model, policy: Any, reference: Any, samples: generate.Samples, temperature: float
) -> Program:
    """Exact KL to the reference at the policy's own samples (evals/policy.py)."""

    def measure(policy: Any, reference: Any, samples: generate.Samples) -> Any:
        batch, mask = learned.as_batch(samples), samples.mask
        heat = {"temperature": temperature}
        hidden = scoring.hidden_states(model, policy, batch)
        stats = scoring.stats_of(model, policy, hidden, batch["tokens"], **heat)
        kl = scoring.token_divergence(model, policy, hidden, reference, batch, **heat)
        drift = jnp.max(jnp.where(mask, jnp.abs(stats.logprob - samples.logprobs), 0.0))
        sums = (jnp.sum(jnp.where(mask, x, 0.0), axis=1) for x in (kl, stats.entropy))
        return *sums, drift

    parts = (("parameters", policy), ("frozen", reference), ("batch", samples))
    return Program("evaluate divergence", jax.jit(measure), parts, 1, 1, 2)


def work(
    shape: analytic.Shape | None, made: Program, rows: int, length: int, shards: tuple[int, int]
) -> analytic.Work | None:
    """By the formulas; None where they do not hold."""
    if shape is None:
        return None
    found = []
    of_others = made.plain if made.heads else 0
    own = made.heads if analytic.tiled(shape, rows, length, shards) else min(made.heads, 1)
    for each, times, heads in ((shape, made.passes, own), (shape.plain, made.plain, of_others)):
        found += [analytic.body(each, rows, length, trained=False)] * times
        found += [analytic.head(each, rows, length, shards, trained=False)] * heads
    return analytic.together(*found)
