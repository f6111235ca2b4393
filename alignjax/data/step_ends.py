"""Where the steps of an answer end, as places of its tokens.

In text a step is a line (`makers.STEP` ends it): its label and its score stand on the token that
ends the line, and on the last token of an answer whose last line is open. In a world without text
the world says which tokens are steps.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.data import corpus as corpora
from alignjax.data import makers
from alignjax.text import chat, pieces


class StepEnds(NamedTuple):
    """ids: tokens that end a step, never the one that ends an answer. blank: those of them that
    stand between steps and hold nothing else: behind no step they end none. is_open: whether what
    stands behind the last of them is a step too."""

    ids: np.ndarray
    blank: np.ndarray
    is_open: bool


def of_corpus(corpus: corpora.Corpus) -> StepEnds | None:
    """The steps of a corpus's answers: its own, or lines of its text; None where it has none."""
    if corpus.steps is not None:
        ids = np.asarray(corpus.steps, np.int32)
        return StepEnds(ids, np.zeros(0, np.int32), False)
    return None if corpus.speaker is None else of_text(corpus.speaker)


def of_text(speaker: chat.Speaker) -> StepEnds:
    """The steps of texts: every token that a line break stands in ends one."""
    special = set(speaker.special.values())
    spelled = {
        token: pieces.spelled(speaker, token)
        for token in range(speaker.vocab_size)
        if token not in special
    }
    ends = [token for token, own in spelled.items() if makers.STEP.encode() in own]
    blank = [token for token in ends if not spelled[token].strip()]
    return StepEnds(np.array(ends, np.int32), np.array(blank, np.int32), True)


def mask(ends: StepEnds, tokens: Any, sampled: Any, eos: int | Sequence[int]) -> jax.Array:
    """[N, T] bool: the tokens at which steps of answers end.

    Args:
      tokens: [N, T] int. sampled: [N, T] bool, true on the answer. eos: the id, or ids, that end an
        answer; no step ends on them.
    """
    tokens, sampled = jnp.asarray(tokens), jnp.asarray(sampled)
    own = sampled & ~_among(tokens, np.atleast_1d(np.asarray(eos, np.int32)))
    is_end = own & _among(tokens, ends.ids)
    is_content = own & ~is_end
    before = jnp.pad(is_content[:, :-1], ((0, 0), (1, 0)))
    found = is_end & (before | ~_among(tokens, ends.blank))
    if not ends.is_open:
        return found
    goes_on = jnp.pad(own[:, 1:], ((0, 0), (0, 1)))
    return found | (is_content & ~goes_on)


def _among(tokens: jax.Array, ids: np.ndarray) -> jax.Array:
    if not len(ids):
        return jnp.zeros_like(tokens, jnp.bool_)
    return jnp.any(tokens[..., None] == jnp.asarray(ids), axis=-1)
