"""A decoder of a few hundred weights for tests, large enough to be wrong in every way."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.core import struct
from alignjax.models import params as declarations
from alignjax.models import transformer
from alignjax.models.config import TransformerConfig
from alignjax.parallel import axes

SIZES = {
    "vocab_size": 16,
    "layers": 2,
    "width": 16,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 8,
    "ff": 24,
    "rope_theta": 100.0,
}


def config(**changes) -> TransformerConfig:
    return TransformerConfig(**{**SIZES, **changes})


def model(**changes):
    return transformer.transformer(config(**changes))


@functools.cache
def init(tied: bool = True, vocab_size: int = 16):
    """The model's jitted `init`."""
    return jax.jit(model(tied=tied, vocab_size=vocab_size).init)


@functools.cache
def params(tied: bool = True, seed: int = 0, vocab_size: int = 16):
    """Host weights away from their gentle start: norms differ from 1, logits spread over nats."""
    tree = init(tied, vocab_size)(jax.random.key(seed))
    rng = np.random.default_rng(seed)

    def roughen(x):
        x = np.asarray(x)
        if (x == 1).all():
            return (x + 0.3 * rng.normal(size=x.shape)).astype(x.dtype)
        return x * np.float32(0.5 / x.std() if x.ndim == 2 and x.shape[0] == vocab_size else 1.5)

    return jax.tree.map(roughen, tree)


def place(weights, tied: bool = True):
    """Host weights on the current mesh, laid out as they are declared."""
    declared = transformer.declare(config(tied=tied))
    if weights.scalar is not None:
        declared = struct.replace(declared, scalar=declarations.ParamInfo((16,), "embed", 0))
    return jax.tree.map(
        lambda info, x: jax.device_put(x, axes.spec(info.axes) if axes.has_mesh() else None),
        declared,
        weights,
        is_leaf=declarations.is_info,
    )


def rows(sequences, length: int, *, left: bool = False, pad: int = 0):
    """(tokens, positions, segments) of sequences, padded on one side."""
    tokens = np.full((len(sequences), length), pad, np.int32)
    segments, positions = np.zeros_like(tokens), np.zeros_like(tokens)
    for i, sequence in enumerate(sequences):
        start = length - len(sequence) if left else 0
        at = slice(start, start + len(sequence))
        tokens[i, at], segments[i, at] = sequence, 1
        positions[i, at] = np.arange(len(sequence))
    return tokens, positions, segments


def packed(sequences, length: int, pad: int = 0):
    """The same with all sequences in one row, numbered from segment 1."""
    tokens, segments, positions = (np.full((1, length), x, np.int32) for x in (pad, 0, 0))
    start = 0
    for number, sequence in enumerate(sequences, 1):
        at = slice(start, start + len(sequence))
        tokens[0, at], segments[0, at] = sequence, number
        positions[0, at] = np.arange(len(sequence))
        start += len(sequence)
    return tokens, positions, segments


def batch(tokens, positions, segments, loss_mask=None):
    """What scoring reads."""
    mask = segments > 0 if loss_mask is None else loss_mask
    fields = {
        "tokens": tokens,
        "positions": positions,
        "segments": segments,
        "loss_mask": mask,
    }
    return {name: jnp.asarray(x) for name, x in fields.items()}


def sequences(lengths, seed: int = 0, vocab: int = 16):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab, n).astype(np.int32) for n in lengths]
