"""Samples, scores and configurations made by hand: P prompts, G samples of each."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from alignjax.algorithms import grpo
from alignjax.rewards import scores
from alignjax.rollouts import rollouts
from alignjax.sampling import transforms
from tests.training import tiny

NAN = float("nan")


def config(**changes: Any) -> grpo.GrpoConfig:
    """GRPO on the data's own reward."""
    sampling = transforms.SamplingConfig(max_new_tokens=tiny.NEW)
    return grpo.GrpoConfig(**{"reward": "gold", "group": 3, "sampling": sampling, **changes})


def samples(prompts: int, size: int, seed: int = 0, **columns: Any) -> rollouts.Rollouts:
    """Random ragged rows of a tiny model's tokens: those of a prompt begin alike.

    columns: in the place of the random ones.
    """
    rng = np.random.default_rng(seed)
    width, rows = tiny.PROMPT + tiny.NEW, prompts * size
    before = rng.integers(2, tiny.PROMPT + 1, prompts)
    counts = rng.integers(1, tiny.NEW + 1, rows)
    starts = rng.integers(2, tiny.VOCAB, (prompts, width))
    ends = rng.integers(2, tiny.VOCAB, (rows, width))
    slot = np.arange(width)[None]
    begin = np.repeat(before, size)
    length = begin + counts
    mask = (slot >= begin[:, None]) & (slot < length[:, None])
    tokens = np.where(mask, ends, np.repeat(starts, size, axis=0))
    made = {
        "tokens": np.where(slot < length[:, None], tokens, tiny.PAD).astype(np.int32),
        "mask": mask,
        "logprobs": np.where(mask, -rng.exponential(1.0, mask.shape), 0.0).astype(np.float32),
        "lengths": length.astype(np.int32),
        "prompt_lengths": begin.astype(np.int32),
        "ended": counts < tiny.NEW,
        "task": np.repeat(np.arange(prompts, dtype=np.int32), size),
        "version": np.zeros(rows, np.int32),
        "turns": np.ones(rows, np.int32),
        "returns": np.zeros(rows, np.float32),
        **columns,
    }
    return rollouts.Rollouts(**{name: jnp.asarray(x) for name, x in made.items()})


def found(reward: Any, failed: Any = None, **parts: Any) -> scores.Scores:
    """Scores of rows; the reward is the only part unless there are others."""
    reward = jnp.asarray(np.asarray(reward, np.float32).reshape(-1))
    failed = jnp.zeros(reward.shape, bool) if failed is None else jnp.asarray(failed, bool)
    named = {name: jnp.asarray(x, jnp.float32).reshape(-1) for name, x in parts.items()}
    return scores.Scores(reward, named or {"gold": reward}, failed.reshape(-1))
