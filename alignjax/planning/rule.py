"""FLOPs and weights of the gated delta rule, as `models.gated_delta` multiplies."""

import math

from alignjax.models import delta_rule
from alignjax.models.config import TransformerConfig


def weights(config: TransformerConfig) -> tuple[int, int]:
    """(weights of one layer's maps, elements that are no matrix: taps, decays and the norm)."""
    delta, d = config.delta, config.width
    if not layers(config):
        return 0, 0
    k, h, v, g = delta.key_heads, delta.key_dim, delta.values, delta.group
    maps = d * k * (2 * (h + v) + 2 * g) + k * v * d
    small = k * (2 * h + v) * delta.taps + 2 * k * g + delta.value_dim
    return maps, small


def layers(config: TransformerConfig) -> int:
    """How many layers have it."""
    return config.kinds().count("delta")


def _solved(size: int) -> float:
    """FLOPs of (I + L)^-1 of one chunk: two products of each pair of blocks, level by level."""
    return sum(2.0 * size * half**2 for half in (2**n for n in range(int(math.log2(size)))))


def forward(config: TransformerConfig, length: int) -> float:
    """FLOPs of one layer for one row of so many new tokens, in chunks."""
    delta = config.delta
    if not layers(config):
        return 0.0
    size = min(delta_rule.CHUNK, 1 << (length - 1).bit_length())
    keys, heads = delta.key_heads, delta.value_heads
    h, u = delta.key_dim, delta.value_dim
    near = 2 * keys * 2.0 * size**2 * h  # keys and queries with keys
    within = heads * (_solved(size) + 2.0 * size**2 * (2 * u + h))
    state = heads * 3 * 2.0 * size * h * u  # read twice, written once
    return math.ceil(length / size) * (near + within + state)


def backward(config: TransformerConfig, length: int) -> float:
    """FLOPs of the gradient of `forward`: two of each product, and two of an inverse."""
    if not layers(config):
        return 0.0
    size = min(delta_rule.CHUNK, 1 << (length - 1).bit_length())
    solved = config.delta.value_heads * math.ceil(length / size)
    whole = 2.0 * (forward(config, length) - solved * _solved(size))
    return whole + solved * 4.0 * size**3
