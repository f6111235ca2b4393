"""What algorithms see of a model."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Params = Any
Frozen = Mapping[str, Params]  # "reference", "reward", ...: never updated, always an argument


class Model(NamedTuple):
    """A language model as pure functions.

    init: key -> params.
    hidden: (params, tokens [B,T], *, positions [B,T], segments [B,T], cache) -> ([B,T,D], cache).
    unembedding: params -> [D,V] in the compute dtype, laid out as it is stored.
    scalar: (params, hidden [B,T,D]) -> [B,T] fp32, the reward or value head; [B,T,C] of C heads.
    with_scalar, without_scalar: params -> params with a zero scalar head, or with none; with_scalar
      (params, C) makes C heads.
    cache: (batch, length) -> an empty KVCache.
    bind: (params, frozen, key=None) -> params; adapters join frozen["base"] here, otherwise the
      identity. With a key adapters drop out; without one nothing is random.
    vocab_size, logit_tile, logit_softcap: what the log-prob primitive needs.
    rounding: nats by which two programs of this model may differ on a token, from precision alone.
    hidden_and_penalties: (params, tokens, *, positions, segments) -> ([B,T,D], {term: [B,T]}), the
      states and each token's part of the router losses, weighed and averaged over layers; zero on
      padding. None where the model has no such losses.
    declared: the tree of ParamInfo that `init` fills; None where the model does not declare it.
    drops_out: whether `bind` with a key is random.
    narrow: params, bound -> the same in the precision of decoding and without the scalar head.
    prepare: params, bound -> the same as decoding reads them, for one rollout.
    branches: whether segments of rows that are read whole may branch off one another
      (`sight.BRANCHES`), each then read exactly as trunk and branch in a row would be.
    """

    init: Callable[[jax.Array], Params]
    hidden: Callable[..., tuple[jax.Array, Any]]
    unembedding: Callable[[Params], jax.Array]
    scalar: Callable[[Params, jax.Array], jax.Array]
    with_scalar: Callable[..., Params]
    without_scalar: Callable[[Params], Params]
    cache: Callable[[int, int], Any]
    bind: Callable[..., Params]
    vocab_size: int
    logit_tile: int = 0
    logit_softcap: float = 0.0
    rounding: float = 1e-4
    declared: Any = None
    hidden_and_penalties: Callable[..., tuple[jax.Array, dict[str, jax.Array]]] | None = None
    drops_out: bool = False
    narrow: Callable[[Params], Params] = lambda params: params
    prepare: Callable[[Params], Params] = lambda params: params
    branches: bool = False


def zero_head(width: int, heads: int = 0) -> jax.Array:
    """A head [D] fp32 of zeros, or of so many outputs [D, C]."""
    return jnp.zeros((width, heads) if heads else (width,), jnp.float32)


def read_head(states: jax.Array, head: Any) -> jax.Array:
    """States [B, T, D] under a head [D] or [D, C]: [B, T] or [B, T, C], fp32."""
    states = states.astype(jnp.float32)
    return jnp.einsum("btd,d->bt" if head.ndim == 1 else "btd,dc->btc", states, head)
