"""The score of a trained reward model."""

from collections.abc import Callable
from typing import Any

import jax

from alignjax.models import model as models
from alignjax.models import scoring
from alignjax.sampling import generate

RewardFn = Callable[[models.Frozen, generate.Samples], Any]  # -> [B] fp32, reward units


def as_batch(samples: generate.Samples) -> dict[str, jax.Array]:
    """Samples as the rows that scoring reads; the loss mask is the completion."""
    positions, segments = generate.right_padded(samples.tokens, samples.lengths)
    return {
        "tokens": samples.tokens,
        "loss_mask": samples.mask,
        "positions": positions,
        "segments": segments,
    }


def learned(model: models.Model, name: str = "reward") -> RewardFn:
    """(frozen, samples) -> [B]: the scalar head of frozen[name] at each row's last token."""

    @jax.jit
    def score(params: Any, samples: generate.Samples) -> jax.Array:
        return scoring.sequence_scores(model, params, as_batch(samples))

    return lambda frozen, samples: score(model.bind(frozen[name], frozen), samples)
