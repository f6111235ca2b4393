"""The score of a trained reward model."""

from collections.abc import Callable
from typing import Protocol

import jax
import numpy as np

from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.parallel import hosts
from alignjax.rewards import scores
from alignjax.sampling import generate, prefill
from alignjax.training import algorithm, update


class RewardFn(Protocol):
    """(frozen, samples, columns) -> [B] fp32, reward units, or `scores.Scores`. A host function.

    columns: of the batch of prompts, [B, ...].
    """

    def __call__(
        self, frozen: models.Frozen, samples: generate.Samples, columns: algorithm.Batch
    ) -> jax.Array | scores.Scores: ...


# (tokens [N, T], lengths, prompt_lengths, index, each [N]) -> the same text as rows of another
# tokenizer: tokens, segments, positions, each [N, T'].
Reader = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], dict[str, np.ndarray]]


def as_batch(samples: generate.Samples) -> dict[str, jax.Array]:
    """Samples as the rows that scoring reads; the loss mask is the completion."""
    positions, segments = prefill.right_padded(samples.tokens, samples.lengths)
    return {
        "tokens": samples.tokens,
        "loss_mask": samples.mask,
        "positions": positions,
        "segments": segments,
    }


Score = Callable[[models.Params, algorithm.Batch], jax.Array]


def make_score(model: models.Model, *, chunks: int = 1) -> Score:
    """Jitted (bound params, batch) -> [B]: the scalar head at each row's last token.

    chunks: equal parts of the rows, one after the other, to save memory.
    """

    @jax.jit
    def score(params: models.Params, batch: algorithm.Batch) -> jax.Array:
        def one(rows: algorithm.Batch) -> jax.Array:
            return scoring.sequence_scores(model, params, rows)

        return update.in_chunks(one, batch, chunks)

    return score


def learned(
    model: models.Model, name: str = "reward", *, reader: Reader | None = None, chunks: int = 1
) -> RewardFn:
    """The scalar head of frozen[name] at each row's last token.

    reader: for a model with a tokenizer of its own: re-tokenises every row from its text; each
    process does so for its own rows, on the host. chunks: as in `make_score`.
    """
    score = make_score(model, chunks=chunks)

    def reward(
        frozen: models.Frozen, samples: generate.Samples, columns: algorithm.Batch
    ) -> jax.Array:
        batch = as_batch(samples)
        if reader is not None:
            named = (samples.tokens, samples.lengths, samples.prompt_lengths, columns["index"])
            rows = reader(*(hosts.to_local(x) for x in named))
            batch = hosts.to_global(rows, samples.tokens.shape[0])
        return score(model.bind(frozen[name], frozen), batch)

    return reward
