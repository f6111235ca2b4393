"""The gated delta rule and its convolution, a token at a time."""

import jax
import jax.numpy as jnp
import numpy as np


@jax.jit
def rule(numbers, segments, last):
    """(read [B, T, K, G, U], state [B, K, G, H, U]) by the recurrence, in its arguments' dtype.

    numbers: query, key [B, T, K, H], value [B, T, K, G, U], write, decay [B, T, K, G], state.
    """
    *tokens, state = numbers

    def step(carry, token):
        state, before = carry
        segment, query, key, value, write, decay = token
        begins = (segment > 0) & (segment != before)
        own = jnp.where(begins[:, None, None, None, None], 0.0, state)
        own = jnp.exp(decay)[..., None, None] * own
        wrong = write[..., None] * (value - jnp.einsum("bkh,bkghu->bkgu", key, own))
        own = own + key[:, :, None, :, None] * wrong[:, :, :, None]
        own = jnp.where((segment > 0)[:, None, None, None, None], own, state)
        read = jnp.einsum("bkh,bkghu->bkgu", query, own)
        return (own, jnp.where(segment > 0, segment, before)), read

    by_time = [jnp.moveaxis(jnp.asarray(x), 1, 0) for x in (segments, *tokens)]
    (state, _), read = jax.lax.scan(step, (state, jnp.asarray(last)), tuple(by_time))
    return jnp.moveaxis(read, 0, 1), state


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
