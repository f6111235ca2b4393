"""How well a language model predicts held-out rows."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.data import corpus, pipeline
from alignjax.evals import estimate
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.parallel import hosts


def row_nll(
    model: models.Model, params: Any, table: corpus.Table, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """(negative log-likelihood in nats, counted tokens) of every row, each [N]."""

    @jax.jit
    def score(params: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
        mask = scoring.counted(batch)
        logprobs = scoring.token_stats(model, params, batch).logprob
        return -jnp.sum(jnp.where(mask, logprobs, 0.0), axis=1), jnp.sum(mask, axis=1)

    parts = [
        [x[:real] for x in hosts.to_host(score(params, hosts.to_global(batch)))]
        for batch, real in pipeline.in_order(table, rows)
    ]
    nll, tokens = (np.concatenate(column) for column in zip(*parts, strict=True))
    return nll, tokens


def token_nll(
    model: models.Model, params: Any, table: corpus.Table, rows: int
) -> estimate.Estimate:
    """Mean negative log-likelihood per counted token, in nats."""
    return estimate.ratio(*row_nll(model, params, table, rows))
