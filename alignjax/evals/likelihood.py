"""How well a language model predicts held-out rows."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.data import pipeline, tables
from alignjax.evals import estimate, evaluator
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.parallel import hosts
from alignjax.training import program


def make_score(model: models.Model) -> Callable[[Any, Any], tuple[jax.Array, jax.Array]]:
    """Jitted (params, batch) -> (negative log-likelihood in nats, counted tokens), each [B]."""

    @jax.jit
    def score(params: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
        mask = scoring.counted(batch)
        logprobs = scoring.token_stats(model, params, batch).logprob
        return -jnp.sum(jnp.where(mask, logprobs, 0.0), axis=1), jnp.sum(mask, axis=1)

    return score


def row_nll(
    model: models.Model, params: Any, table: tables.Table, rows: int, score: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """(negative log-likelihood in nats, counted tokens) of every row, each [N].

    score: `make_score(model)`, if it is there already.
    """
    score = make_score(model) if score is None else score
    parts = [
        [x[:real] for x in hosts.to_host(score(params, hosts.to_global(batch)))]
        for batch, real in pipeline.in_order(table, rows)
    ]
    nll, tokens = (np.concatenate(column) for column in zip(*parts, strict=True))
    return nll, tokens


def token_nll(
    model: models.Model, params: Any, table: tables.Table, rows: int
) -> estimate.Estimate:
    """Mean negative log-likelihood per counted token, in nats."""
    return estimate.ratio(*row_nll(model, params, table, rows))


def of(kind: str) -> evaluator.Evaluator:
    """Judges a policy by the eval split's table of a kind (documents, demonstrations)."""

    def run(subject: evaluator.Subject) -> evaluator.Numbers:
        table = subject.corpus.read(kind, "eval")
        model, params = subject.networks["policy"], subject.trees["policy"]
        score = subject.once("likelihood", lambda: make_score(model))
        sums = row_nll(model, params, table, subject.rows, score)
        return {"nats a token": estimate.ratio(*sums)}

    def programs(subject: evaluator.Subject) -> tuple[program.Program, ...]:
        params, length = subject.trees["policy"], subject.corpus.length
        batch = program.batch(kind, subject.rows, subject.corpus)
        return (
            program.Program(
                "evaluate likelihood",
                make_score(subject.networks["policy"]),
                (params, batch),
                (("parameters", params), ("batch", batch)),
                rows=subject.rows,
                length=length,
                passes=(program.Pass("policy"),),
            ),
        )

    return evaluator.Evaluator("likelihood", run, reads=("policy",), programs=programs)
