"""What an experiment asks of its data, whatever the data is."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

Table = dict[str, np.ndarray]

# documents, demonstrations: tokens, loss_mask, segments, positions [N, T]
# pairs: the same [N, K, T] over the answers to a prompt; where there are more than two, also
#   preferred [N, P, 2] and pair_mask [N, P], the comparisons; else answer 0 is the chosen one
# prompts: prompts [N, P] padded right, lengths [N]
KINDS = ("documents", "demonstrations", "pairs", "prompts")


class Corpus(NamedTuple):
    """Tables of token ids, and what is needed to read them.

    table: (kind, split) -> Table; kinds as in KINDS, splits "train" and "eval".
    gold: (tokens [N, T], lengths [N]) -> [N], the known true reward; None where there is none.
    text: ids -> readable text. fingerprints: named hashes of everything that the ids depend on.
    summary: lines about what was read, dropped and cut.
    """

    vocab_size: int
    pad: int
    eos: int
    length: int
    prompt_length: int
    table: Callable[[str, str], Table]
    text: Callable[[np.ndarray], str]
    fingerprints: Mapping[str, str]
    gold: Any = None
    world: Any = None
    summary: tuple[str, ...] = ()
