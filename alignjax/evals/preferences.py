"""Accuracy of scores on preference pairs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.data import pipeline, tables
from alignjax.evals import estimate, evaluator
from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.parallel import axes, hosts
from alignjax.training import program

AnswerScores = Callable[[Any, scoring.Batch], jax.Array]  # (trees, batch [B, K, T]) -> [B, K]


def reward_scores(model: models.Model) -> AnswerScores:
    """Scores [B, K] of a batch of answers by a reward model; trees are its parameters."""

    def score(params: models.Params, batch: scoring.Batch) -> jax.Array:
        rows = scoring.flatten_choices(batch)
        return scoring.sequence_scores(model, params, rows).reshape(-1, batch["tokens"].shape[1])

    return jax.jit(score)


def implicit_scores(
    model: models.Model, reference_model: models.Model | None = None
) -> AnswerScores:
    """log pi/ref [B, K] of a batch of answers, nats; trees are (policy, reference).

    Reference: Rafailov et al. 2023, equation 5, up to beta.
    """
    both = (model, model if reference_model is None else reference_model)

    def score(trees: tuple[models.Params, models.Params], batch: scoring.Batch) -> jax.Array:
        rows = scoring.flatten_choices(batch)
        mask = scoring.counted(rows)
        policy, reference = (
            scoring.answer_logprobs(network, tree, rows)
            for network, tree in zip(both, trees, strict=True)
        )
        ratio = jnp.sum(jnp.where(mask, policy - reference, 0.0), axis=1)
        return ratio.reshape(-1, batch["tokens"].shape[1])

    return jax.jit(score)


def prompts_at_once(rows: int, answers: int) -> int:
    """How many prompts of so many answers are scored at once, for at most `rows` rows.

    It is a multiple of the mesh's batch axes, and no fewer.
    """
    shards = axes.axis_size("batch")
    return max(rows // answers // shards, 1) * shards


def answer_scores(score: AnswerScores, trees: Any, table: tables.Table, rows: int) -> np.ndarray:
    """Scores [N, K] of all answers of a table; rows: prompts at once, of K answers each."""
    parts = [
        hosts.to_host(score(trees, hosts.to_global(batch)))[:real]
        for batch, real in pipeline.in_order(table, rows)
    ]
    return np.concatenate(parts)


def in_pairs(values: np.ndarray, table: tables.Table) -> np.ndarray:
    """[M, 2]: the values of [N, K] of the M compared pairs of a table, the preferred one first."""
    batch: Any = {n: np.asarray(table[n]) for n in ("preferred", "pair_mask") if n in table}
    chosen, rejected, mask = (np.asarray(x) for x in scoring.compared(jnp.asarray(values), batch))
    return np.stack([chosen[mask], rejected[mask]], axis=1)


def accuracy(scores: np.ndarray) -> estimate.Estimate:
    """Share of pairs, scores [N, 2], whose answer 0 scores higher; a tie counts half."""
    margin = scores[:, 0] - scores[:, 1]
    return estimate.mean((margin > 0) + 0.5 * (margin == 0))


def _pair_program(
    subject: evaluator.Subject, run: Any, trees: dict[str, Any], passes: tuple[program.Pass, ...]
) -> program.Program:
    batch = program.batch("pairs", subject.rows, subject.corpus)
    named = tuple(trees.values())
    return program.Program(
        "evaluate pairs",
        run,
        (named[0] if len(named) == 1 else named, batch),
        (
            ("parameters", named[0]),
            *(("frozen", tree) for tree in named[1:]),
            ("batch", batch),
        ),
        rows=2 * subject.rows,
        length=subject.corpus.length,
        passes=passes,
    )


def _scorer_accuracy(subject: evaluator.Subject) -> evaluator.Numbers:
    table = subject.corpus.read("pairs", "eval")
    score = subject.once("scores", lambda: reward_scores(subject.networks["scorer"]))
    scores = answer_scores(score, subject.trees["scorer"], table, subject.rows)
    return {"pair accuracy": accuracy(in_pairs(scores, table))}


def _scorer_programs(subject: evaluator.Subject) -> tuple[program.Program, ...]:
    run = reward_scores(subject.networks["scorer"])
    trees = {"scorer": subject.trees["scorer"]}
    return (_pair_program(subject, run, trees, (program.Pass("scorer", head=False),)),)


def _implicit_accuracy(subject: evaluator.Subject) -> evaluator.Numbers:
    table = subject.corpus.read("pairs", "eval")
    networks = (subject.networks["policy"], subject.networks["reference"])
    score = subject.once("log-ratios", lambda: implicit_scores(*networks))
    trees = (subject.trees["policy"], subject.trees["reference"])
    scores = answer_scores(score, trees, table, subject.rows)
    return {"pair accuracy": accuracy(in_pairs(scores, table))}


def _implicit_programs(subject: evaluator.Subject) -> tuple[program.Program, ...]:
    run = implicit_scores(subject.networks["policy"], subject.networks["reference"])
    trees = {name: subject.trees[name] for name in ("policy", "reference")}
    passes = (program.Pass("policy"), program.Pass("reference"))
    return (_pair_program(subject, run, trees, passes),)


# Share of held-out pairs whose chosen answer a reward model scores higher.
SCORER = evaluator.Evaluator(
    "pair accuracy", _scorer_accuracy, reads=("scorer",), programs=_scorer_programs
)
# The same of the log-ratio of a policy to its reference.
IMPLICIT = evaluator.Evaluator(
    "pair accuracy", _implicit_accuracy, reads=("policy", "reference"), programs=_implicit_programs
)
