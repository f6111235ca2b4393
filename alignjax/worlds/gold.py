"""The gold reward of ReviewWorld, computed by one walk through a small transducer.

    r = 2 sum over adjectives of valence * affinity(topic) * modifier * decay(running index)
        + wows: .6 for the first, 0 for the second, -1.4 for each one from the third on
        - .6 per ADV directly after an ADV - 1 per illegal bigram - 1 if the document lacks EOS
It counts the whole document, prompt included. Wows past the second, repeated adverbs, and illegal
bigrams are rare in documents of the generator: a reward model sees few of them, so an
over-optimised policy exploits them.
"""

import functools
from typing import NamedTuple

import numpy as np

from alignjax.worlds import review

SCALE = 2.0
MODIFIER = (1.0, 1.75, -0.75, -0.4)  # plain, ADV, NOT, both
DECAY = (1.0, 1.0, 0.6, 0.35, 0.15, 0.05)  # by index of the adjective; the last one for all later
WOW = (0.6, 0.0, -1.4)  # first, second, each later one
REPEATED_ADV = -0.6
ILLEGAL = -1.0
NO_EOS = -1.0
N_STATES = len(DECAY) * len(WOW) * len(MODIFIER)


class GoldTables(NamedTuple):
    """The transducer. State 0 is the start; a state is (adjectives, wows, modifier) so far."""

    next_state: np.ndarray  # [S, V] int
    reward: np.ndarray  # [4, S, V, V] float64: topic, state, last token, token


@functools.lru_cache(maxsize=16)
def gold_tables(world: review.ReviewWorld) -> GoldTables:
    """Returns the transition and reward tables that the gold reward and the oracle share.

    Counts saturate where they stop to matter (5 adjectives, 2 wows). The modifier is two flags, set
    by NOT (+2) and ADV (+1) and cleared by every other token.
    """
    shape = (len(DECAY), len(WOW), len(MODIFIER))
    adjectives, wows, modifier = (a[:, None] for a in np.unravel_index(range(N_STATES), shape))
    is_kind = {k: np.isin(np.arange(world.vocab_size), ids) for k, ids in world.kinds.items()}
    is_adjective = is_kind["pos"] | is_kind["neg"]
    flag = np.where(is_kind["not"], 2, np.where(is_kind["adv"], 1, 0))
    next_state = np.ravel_multi_index(
        (
            np.minimum(adjectives + is_adjective, len(DECAY) - 1),
            np.minimum(wows + is_kind["wow"], len(WOW) - 1),
            np.where(flag > 0, modifier | flag, 0),
        ),
        shape,
    )
    worth = np.array(MODIFIER)[modifier] * np.array(DECAY)[adjectives]  # [S, 1]
    by_state = SCALE * (world.valence * world.affinity)[:, None] * worth  # [4, S, V]
    by_state = by_state + np.array(WOW)[wows] * is_kind["wow"]
    by_bigram = REPEATED_ADV * np.outer(is_kind["adv"], is_kind["adv"]) + ILLEGAL * ~world.legal
    return GoldTables(next_state, by_state[:, :, None, :] + by_bigram)


def gold_reward(world: review.ReviewWorld, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns the gold reward of each document, [n] float64, no unit.

    Args:
        world: the world that the documents belong to.
        tokens: [n, T] int in [0, V), each row beginning with BOS and a topic.
        lengths: [n] int in [2, T], tokens of the document, EOS included; the rest is not read.

    Raises:
        ValueError: if a row does not begin with BOS and a topic, or shapes do not fit.
    """
    total = np.zeros(len(tokens))
    for reward in token_rewards(world, tokens, lengths).T:  # in the order of the tokens
        total += reward
    return total


def token_rewards(world: review.ReviewWorld, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns each token's part of the gold reward, [n, T] float64; arguments as `gold_reward`.

    The penalty of a document without EOS stands at its BOS.
    """
    tokens, lengths = np.asarray(tokens), np.asarray(lengths)
    _check_documents(world, tokens, lengths)
    tables = gold_tables(world)
    topic = tokens[:, 1] - world.kinds["topic"][0]
    state = np.zeros(len(tokens), int)
    final = tokens[np.arange(len(tokens)), lengths - 1]
    rewards = np.zeros(tokens.shape)
    rewards[:, 0] = np.where(final == world.eos, 0.0, NO_EOS)
    for t in range(1, tokens.shape[1]):
        last, token = tokens[:, t - 1], tokens[:, t]
        rewards[:, t] = np.where(t < lengths, tables.reward[topic, state, last, token], 0.0)
        state = tables.next_state[state, token]
    return rewards


def _check_documents(world: review.ReviewWorld, tokens: np.ndarray, lengths: np.ndarray) -> None:
    """Raises ValueError unless the rows are documents with a topic."""
    if tokens.ndim != 2 or lengths.shape != tokens.shape[:1]:
        raise ValueError(
            f"tokens and lengths must be [n, T] and [n]; got {tokens.shape} and {lengths.shape} "
            "(gold_reward). Pass one length per row."
        )
    if not len(tokens):
        return
    if lengths.min() < 2 or lengths.max() > tokens.shape[1]:
        raise ValueError(
            f"lengths must lie in [2, {tokens.shape[1]}]; got {lengths.min()} to {lengths.max()} "
            "(gold_reward). Count BOS, the prompt and EOS."
        )
    if not (np.isin(tokens[:, 1], world.kinds["topic"]) & (tokens[:, 0] == world.bos)).all():
        raise ValueError(
            f"documents must begin with BOS={world.bos} and a topic in "
            f"{world.kinds['topic'].tolist()}; got others (gold_reward). Score whole documents."
        )
