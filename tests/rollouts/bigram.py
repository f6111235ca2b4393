"""A policy that is a table: row t holds the logits of the token behind token t.

Its programs are small, every distribution of it can be written down, and nothing but the last
token of a row counts.
"""

from typing import Any

import jax
import jax.numpy as jnp

from alignjax.models import model as models


def bigram(vocab: int, spread: float = 1.0) -> models.Model:
    """The model; its parameters are {"logits": [V, V]}, of normal entries at the start."""

    def hidden(
        params: Any, tokens: Any, *, positions: Any, segments: Any, cache: Any = None
    ) -> Any:
        return jax.nn.one_hot(tokens, vocab, dtype=jnp.float32), cache

    return models.Model(
        init=lambda key: {"logits": spread * jax.random.normal(key, (vocab, vocab))},
        hidden=hidden,
        unembedding=lambda params: params["logits"],
        scalar=lambda params, hidden: jnp.zeros(hidden.shape[:2]),
        with_scalar=lambda params: params,
        without_scalar=lambda params: params,
        cache=lambda batch, length: (),
        bind=lambda params, frozen, key=None: params,
        vocab_size=vocab,
        rounding=1e-5,
    )
