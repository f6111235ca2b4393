"""Latent attention a second time, in NumPy float64: one row, one head, one pair of tokens."""

import math

import numpy as np


def rms_norm(x, scale, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * scale


def frequencies(size, theta, rope):
    """Angle per position of each pair: YaRN's blend of kept and stretched ones, pair by pair."""

    def pair(turns):
        return size * math.log(rope.original_length / (turns * 2 * math.pi)) / 2 / math.log(theta)

    angles = []
    for i in range(size // 2):
        base = theta ** (-2 * i / size)
        if rope.kind == "yarn":
            low = max(math.floor(pair(rope.beta_fast)), 0)
            high = min(math.ceil(pair(rope.beta_slow)), size - 1)
            stretched = min(max((i - low) / (high - low), 0.0), 1.0)
            base = base * (1 - stretched) + base / rope.factor * stretched
        angles.append(base)
    return angles


def turned(x, position, steps, interleaved):
    """The pairs of x turned: neighbours, or the two halves; written out as they came."""
    out, half = np.array(x), len(x) // 2
    for i, step in enumerate(steps):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
        c, s = math.cos(position * step), math.sin(position * step)
        out[a], out[b] = x[a] * c - x[b] * s, x[b] * c + x[a] * s
    return out


def attention(x, w, config):
    """[T, D] added to one row of states [T, D]; YaRN's own factor of cos and sin is taken as 1."""
    mla, nope = config.mla, config.head_dim
    steps = frequencies(mla.rope_dim, config.rope_theta, config.rope)
    scale = 1 / math.sqrt(nope + mla.rope_dim)
    if config.rope.score_mscale:
        scale *= (0.1 * config.rope.score_mscale * math.log(config.rope.factor) + 1) ** 2
    queries = x
    if w.query_down is not None:
        down = x @ w.query_down + (0 if w.query_down_bias is None else w.query_down_bias)
        queries = rms_norm(down, w.query_norm, mla.norm_eps)
    latent = x @ w.latent + (0 if w.latent_bias is None else w.latent_bias)
    latent = rms_norm(latent, w.latent_norm, mla.norm_eps)
    rotated = x @ w.rotated + (0 if w.rotated_bias is None else w.rotated_bias)
    result = np.zeros_like(x) + (0 if w.out_bias is None else w.out_bias)
    for k in range(config.heads):
        for t in range(len(x)):
            q = queries[t] @ w.query[:, k]
            q = np.concatenate([q[:nope], turned(q[nope:], t, steps, config.rope_interleaved)])
            scores = []
            for s in range(t + 1):
                place = turned(rotated[s], s, steps, config.rope_interleaved)
                scores.append(scale * q @ np.concatenate([latent[s] @ w.key[:, k], place]))
            share = np.exp(np.array(scores) - max(scores))
            share /= share.sum()
            for s in range(t + 1):
                result[t] += share[s] * (latent[s] @ w.value[:, k]) @ w.out[k]
    return result
