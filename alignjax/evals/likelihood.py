"""Likelihood of held-out rows under a language model."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.data import pipeline, tables
from alignjax.evals import estimate, evaluator
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.parallel import hosts
from alignjax.training import program

Score = Callable[[models.Params, scoring.Batch], tuple[jax.Array, jax.Array]]


def make_score(model: models.Model) -> Score:
    """Jitted (params, batch) -> (negative log-likelihood in nats, counted tokens), each [B]."""

    @jax.jit
    def score(params: models.Params, batch: scoring.Batch) -> tuple[jax.Array, jax.Array]:
        mask = scoring.counted(batch)
        logprobs = scoring.answer_logprobs(model, params, batch)
        return -jnp.sum(jnp.where(mask, logprobs, 0.0), axis=1), jnp.sum(mask, axis=1)

    return score


def row_nll(
    model: models.Model,
    params: models.Params,
    table: tables.Table,
    rows: int,
    score: Score | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(negative log-likelihood in nats, counted tokens) of every row, each [N].

    rows: scored at once. score: `make_score(model)`, to compile it only once.
    """
    score = make_score(model) if score is None else score
    parts = [
        [x[:real] for x in hosts.to_host(score(params, hosts.to_global(batch)))]
        for batch, real in pipeline.in_order(table, rows)
    ]
    nll, tokens = (np.concatenate(column) for column in zip(*parts, strict=True))
    return nll, tokens


def token_nll(
    model: models.Model, params: models.Params, table: tables.Table, rows: int
) -> estimate.Estimate:
    """Mean negative log-likelihood per counted token, in nats."""
    return estimate.ratio(*row_nll(model, params, table, rows))


def of(kind: str) -> evaluator.Evaluator:
    """The evaluator of a policy's likelihood of the eval split, as documents or demonstrations."""

    def run(subject: evaluator.Subject) -> evaluator.Numbers:
        table = subject.corpus.read(kind, "eval")
        model, params = subject.networks["policy"], subject.trees["policy"]
        score = subject.once("likelihood", lambda: make_score(model))
        sums = row_nll(model, params, table, subject.rows, score)
        nats = estimate.ratio(*sums)
        if kind != "documents":
            return {"nats a token": nats}
        return {"nats a token": nats, "perplexity": estimate.exponential(nats)}

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
