"""The decoder a second time, in NumPy float64: one unpadded row, one head at a time.

Written from the papers (Touvron et al. 2023 and what it builds on). Of the package it reads only
the layout of the weights: query [L, D, K, G, H], key and value [L, D, K, H], out [L, K, G, H, D].
"""

import numpy as np


def rms_norm(x, scale, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * scale


def rotated(x, position, theta):
    """[H] with the pair (i, i + H/2) turned by position * theta^(-2i/H)."""
    half = len(x) // 2
    out = np.empty_like(x)
    for i in range(half):
        angle = position * theta ** (-2 * i / len(x))
        out[i] = x[i] * np.cos(angle) - x[i + half] * np.sin(angle)
        out[i + half] = x[i] * np.sin(angle) + x[i + half] * np.cos(angle)
    return out


def attention(x, query, key, value, out, theta):
    time, (_, kv_heads, groups, size) = len(x), query.shape
    result = np.zeros_like(x)
    for k in range(kv_heads):
        keys = np.stack([rotated(x[t] @ key[:, k], t, theta) for t in range(time)])
        values = x @ value[:, k]
        for g in range(groups):
            for t in range(time):
                q = rotated(x[t] @ query[:, k, g], t, theta)
                score = keys[: t + 1] @ q / np.sqrt(size)
                weight = np.exp(score - score.max())
                mixed = weight / weight.sum() @ values[: t + 1]
                result[t] += mixed @ out[k, g]
    return result


def hidden(weights, tokens, config):
    """[T, D] of one row of token ids."""
    w = _wide(weights)
    x = w.embed[np.asarray(tokens)]
    for n in range(config.layers):
        (b,) = w.blocks
        a = b.attention
        normed = rms_norm(x, b.attention_norm[n], config.norm_eps)
        x = x + attention(normed, a.query[n], a.key[n], a.value[n], a.out[n], config.rope_theta)
        normed = rms_norm(x, b.mlp_norm[n], config.norm_eps)
        gate = normed @ b.mlp.gate[n]
        x = x + (gate / (1 + np.exp(-gate)) * (normed @ b.mlp.up[n])) @ b.mlp.down[n]
    return rms_norm(x, w.norm, config.norm_eps)


def logits(weights, tokens, config):
    """[T, V] of one row of token ids."""
    w = _wide(weights)
    return hidden(weights, tokens, config) @ (w.embed.T if w.unembed is None else w.unembed)


def log_probs(weights, tokens, config):
    """[T, V] log-probability of each next token."""
    z = logits(weights, tokens, config)
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def token_logprobs(weights, tokens, config):
    """[T - 1] log-probability of each token but the first, given those before it."""
    return log_probs(weights, tokens[:-1], config)[np.arange(len(tokens) - 1), tokens[1:]]


def _wide(weights):
    import jax

    return jax.tree.map(lambda x: np.asarray(x, np.float64), weights)


def distribution(logits, *, temperature=1.0, top_k=0, top_p=1.0):
    """[V] probabilities after temperature, then top-k, then top-p; no two logits are equal."""
    order = sorted(range(len(logits)), key=lambda v: -logits[v])
    if temperature == 0:
        return np.eye(len(logits))[order[0]]
    p = np.exp((np.asarray(logits, np.float64) - max(logits)) / temperature)
    kept = set(order[:top_k] if top_k else order)
    p = np.array([x if v in kept else 0.0 for v, x in enumerate(p)])
    p, mass, kept = p / p.sum(), 0.0, set()
    for v in order:
        kept.add(v)
        mass += p[v]
        if mass >= top_p:
            break
    p = np.array([x if v in kept else 0.0 for v, x in enumerate(p)])
    return p / p.sum()
