"""The gated delta rule and its convolution, a token at a time."""

import jax.numpy as jnp
import numpy as np


def rule(numbers, segments, last):
    """(read [B, T, K, G, U], state [B, K, G, H, U]) by the recurrence, in its arguments' dtype.

    numbers: query, key [B, T, K, H], value [B, T, K, G, U], write, decay [B, T, K, G], state.
    """
    query, key, value, write, decay, state = numbers
    rows, behind = [], []
    for b in range(len(segments)):
        own, before, read = state[b], int(last[b]), []
        for t in range(segments.shape[1]):
            segment = int(segments[b, t])
            if segment and segment != before:
                own, before = jnp.zeros_like(own), segment
            if segment:
                own = jnp.exp(decay[b, t])[..., None, None] * own
                told = jnp.einsum("kh,kghu->kgu", key[b, t], own)
                wrong = write[b, t][..., None] * (value[b, t] - told)
                own = own + key[b, t][:, None, :, None] * wrong[:, :, None]
            read.append(jnp.einsum("kh,kghu->kgu", query[b, t], own))
        rows.append(jnp.stack(read))
        behind.append(own)
    return jnp.stack(rows), jnp.stack(behind)


def convolution(x, weight, held, segments, last):
    """(silu of the mixed inputs [B, T, C], the last inputs of each row's last segment)."""
    taps = weight.shape[1]
    x, weight, held = (np.asarray(a, np.float64) for a in (x, weight, held))
    mixed, behind = np.zeros_like(x), np.zeros_like(held)
    for b in range(len(x)):
        window, before = list(held[b]), int(last[b])
        for t in range(x.shape[1]):
            segment = int(segments[b, t])
            if not segment:
                continue
            if segment != before:
                window, before = [np.zeros(x.shape[2])] * (taps - 1), segment
            window.append(x[b, t])
            total = sum(weight[:, i] * window[i] for i in range(taps))
            mixed[b, t] = total / (1 + np.exp(-total))
            window = window[1:]
        behind[b] = np.array(window).reshape(held[b].shape)
    return mixed, behind
