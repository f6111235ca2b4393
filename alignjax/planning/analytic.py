"""FLOPs and parameters that a model's shape implies: what the compiler's count is held against."""

import math
from typing import NamedTuple

from alignjax.models.config import TransformerConfig

TILE = 32 * 2**20  # bytes of logits above which the log-probabilities go tile by tile


class Work(NamedTuple):
    """FLOPs of matrix products of a whole program, all devices.

    useful: no recomputation, and of causal attention the half that counts. run: what the program
    is written to do: masked scores in full, and recomputed what `remat` drops.
    """

    useful: float
    run: float


def together(*parts: Work) -> Work:
    """The work of all parts."""
    return Work(sum(part.useful for part in parts), sum(part.run for part in parts))


def is_counted(config: TransformerConfig) -> bool:
    """Whether this file's formulas hold for a model: no latent attention, no experts."""
    return not config.mla.kv_rank and not config.moe.experts


def layer_matrices(config: TransformerConfig, sparse: bool) -> tuple[int, int]:
    """(weights that a token meets in one layer, those of them in the last product)."""
    d, h = config.width, config.head_dim
    attention = 2 * d * h * (config.heads + config.kv_heads)
    if not sparse:
        return attention + 3 * d * config.ff, d * config.ff
    moe = config.moe
    used = moe.active * moe.ff + moe.shared_ff
    return attention + 3 * d * used + d * moe.experts, d * used


def matrices(config: TransformerConfig) -> tuple[int, int]:
    """The same of all layers."""
    parts = [(layer_matrices(config, sparse), len(numbers)) for sparse, numbers in config.stacks()]
    return sum(a * n for (a, _), n in parts), sum(b * n for (_, b), n in parts)


def attention(config: TransformerConfig, queries: int, slots: int) -> float:
    """FLOPs of all layers' scores and mixing for one row, masked pairs included."""
    return 4.0 * config.layers * config.heads * config.head_dim * queries * slots


def body(config: TransformerConfig, rows: int, length: int, *, trained: bool) -> Work:
    """Layers over whole rows: forward, and where they are trained backward (twice as much)."""
    tokens = rows * length
    weights, last = matrices(config)
    linear, pairs = 2.0 * tokens * weights, rows * attention(config, length, length)
    factor = 3 if trained else 1
    again = 0.0
    if trained and config.remat == "full":
        # The last product of a layer is not needed for its gradient, unless a norm follows it.
        again = linear + pairs - (0.0 if config.post_norms else 2.0 * tokens * last)
    elif trained and config.remat == "dots":
        again = pairs
    return Work(factor * (linear + pairs / 2), factor * (linear + pairs) + again)


def head(
    config: TransformerConfig, rows: int, length: int, shards: tuple[int, int], *, trained: bool
) -> Work:
    """Log-probabilities of whole rows; shards: of rows and of the vocabulary."""
    tokens = rows * (length - 1)
    once = 2.0 * tokens * config.width * config.vocab_size
    if not trained:
        return Work(once, once)
    bytes_here = 4 * math.ceil(rows / shards[0]) * (config.vocab_size // shards[1]) * (length - 1)
    tiled = bool(config.logit_tile and config.logit_tile < length - 1) or bytes_here > TILE
    return Work(3 * once, (4 if tiled else 3) * once)


def generation(config: TransformerConfig, rows: int, prompt: int, new: int) -> Work:
    """Prefill and `new` steps over a cache of prompt + new slots."""
    weights, _ = matrices(config)
    tokens, slots = prompt + new, prompt + new
    linear = 2.0 * rows * tokens * weights
    unembed = 2.0 * rows * (new + 1) * config.width * config.vocab_size
    seen = rows * attention(config, 1, tokens * (tokens + 1) // 2)
    return Work(linear + unembed + seen, linear + unembed + rows * attention(config, tokens, slots))


def parameters(config: TransformerConfig) -> int:
    """Elements of all weights of a dense model without biases and norms of queries or keys."""
    d = config.width
    norms = (4 if config.post_norms else 2) * config.layers * d + d
    embeddings = (1 if config.tied else 2) * config.vocab_size * d
    return matrices(config)[0] + norms + embeddings
