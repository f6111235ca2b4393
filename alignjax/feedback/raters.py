"""Simulated raters: people's errors with known numbers, as pure functions of a key.

A rater with utilities u of the answers in the order that it is shown them
    looks at none and takes the first with probability `position_bias`,
    else is careless with probability `careless` and answers evenly at random,
    else answers by Bradley-Terry, and Plackett-Luce for K answers, at `temperature`.
A judgement is a function of the rater's seed, the item and the repeat alone: neither the order in
which items come nor who else judges changes it.
"""

import math
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp

from alignjax.core import shapes

FIRST, SECOND, TIE = range(3)  # what `choose` returns


class Rater(NamedTuple):
    """One rater.

    temperature: > 0, of its choices, in units of the utilities; 0 never errs. careless: share of
    judgements at random. position_bias: share of judgements that take the first answer unread.
    tie: Davidson's nu >= 0: two equal answers tie with probability nu / (2 + nu). group: whose
    utilities are its own.
    """

    temperature: float = 1.0
    careless: float = 0.0
    position_bias: float = 0.0
    tie: float = 0.0
    group: int = 0


def check(rater: Rater) -> Rater:
    """`rater`.

    Raises:
      ValueError: a number is out of range.
    """
    shapes.check_number("temperature", rater.temperature, minimum=0)
    shapes.check_number("careless", rater.careless, minimum=0, maximum=1)
    shapes.check_number("position_bias", rater.position_bias, minimum=0, maximum=1)
    shapes.check_number("tie", rater.tie, minimum=0)
    shapes.check_number("group", rater.group, minimum=0)
    return rater


def item_key(seed: int, item: str, repeat: int = 0) -> jax.Array:
    """The key of one judgement, of a rater's seed, the item's name and the number of the repeat."""
    root = jax.random.fold_in(jax.random.key(seed), zlib.crc32(item.encode()))
    return jax.random.fold_in(root, repeat)


def _scaled(utilities: jax.Array, temperature: float) -> jax.Array:
    """Utilities in units of the temperature; at 0 so far apart that no draw turns them."""
    return jnp.asarray(utilities, jnp.float32) / max(temperature, 1e-6)


def choose(key: jax.Array, rater: Rater, utilities: jax.Array) -> jax.Array:
    """FIRST, SECOND or TIE: which of two answers, of utilities [2] in the order shown.

    Raises:
      ValueError: not two utilities, or a number of the rater is out of range.
    """
    check(rater)
    shapes.check("utilities", utilities, "2")
    bias, careless, draw = jax.random.split(key, 3)
    scores = _scaled(utilities, rater.temperature)
    level = jnp.mean(scores) + (math.log(rater.tie) if rater.tie > 0 else -jnp.inf)
    answer = jax.random.categorical(draw, jnp.append(scores, level))
    # At random over the two answers alone: who does not read sees no tie.
    answer = jnp.where(
        jax.random.bernoulli(careless, rater.careless),
        jax.random.randint(jax.random.fold_in(careless, 1), (), 0, 2),
        answer,
    )
    return jnp.where(jax.random.bernoulli(bias, rater.position_bias), FIRST, answer)


def rank(key: jax.Array, rater: Rater, utilities: jax.Array) -> jax.Array:
    """[K] ranks, 1 is best, of K answers of utilities [K] in the order shown.

    Plackett-Luce by the order of perturbed utilities; a rater who takes the first unread leaves all
    as they are shown.

    Raises:
      ValueError: utilities are not [K], or a number of the rater is out of range.
    """
    check(rater)
    shapes.check("utilities", utilities, "K")
    bias, careless, draw = jax.random.split(key, 3)
    scores = _scaled(utilities, rater.temperature)
    scores = jnp.where(jax.random.bernoulli(careless, rater.careless), 0.0, scores)
    noise = jax.random.gumbel(draw, scores.shape)
    places = jnp.argsort(jnp.argsort(-(scores + noise))) + 1
    shown = jnp.arange(1, len(scores) + 1)
    return jnp.where(jax.random.bernoulli(bias, rater.position_bias), shown, places)


def score(
    key: jax.Array, rater: Rater, utility: jax.Array, *, levels: int = 7, scale: float = 1.0
) -> jax.Array:
    """A score in 1 .. levels of one answer: its utility with logistic noise, in steps of `scale`.

    Utility 0 is the middle of the scale. The noise is of the rater's temperature, so that the
    difference of two scores follows its choices.

    Raises:
      ValueError: fewer than two levels, or a number is out of range.
    """
    check(rater)
    shapes.check_number("levels", levels, minimum=2)
    shapes.check_number("scale", scale, above=0)
    careless, draw = jax.random.split(key)
    noise = rater.temperature * jax.random.logistic(draw)
    place = jnp.round((jnp.asarray(utility, jnp.float32) + noise) / scale + (levels + 1) / 2)
    blind = jax.random.randint(jax.random.fold_in(careless, 1), (), 1, levels + 1)
    answer = jnp.clip(place, 1, levels).astype(jnp.int32)
    return jnp.where(jax.random.bernoulli(careless, rater.careless), blind, answer)


def chances(rater: Rater, utilities: jax.Array) -> jax.Array:
    """[3]: the probabilities of FIRST, SECOND and TIE that `choose` draws from."""
    check(rater)
    scores = _scaled(utilities, rater.temperature)
    level = jnp.mean(scores) + (math.log(rater.tie) if rater.tie > 0 else -jnp.inf)
    read = jax.nn.softmax(jnp.append(scores, level))
    careful = (1 - rater.careless) * read + rater.careless * jnp.array([0.5, 0.5, 0.0])
    bias = rater.position_bias
    return (1 - bias) * careful + bias * jnp.array([1.0, 0.0, 0.0])
