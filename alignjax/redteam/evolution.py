"""Evolution of transforms' compositions by the judge's score: a genetic search."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from alignjax.redteam import goals, transforms
from alignjax.redteam.search import TARGET, Ask, Attack, Reply, generator, human

Genome = tuple[transforms.Transform, ...]


class Population(NamedTuple):
    """The state. asked: genomes under way. elite: (genome, score) of the best so far, best first;
    what could not be read is never among them."""

    goal: goals.Goal
    seed: int
    asked: tuple[Genome, ...] = ()
    elite: tuple[tuple[Genome, float], ...] = ()
    generation: int = 0


def evolution(
    pool: Sequence[transforms.Transform],
    *,
    size: int = 8,
    generations: int = 8,
    elite: int = 4,
    longest: int = 4,
    temperature: float = 0.2,
) -> Attack:
    """Parents are drawn by the softmax of their scores, cut and joined, and mutated.

    Args:
      size: genomes of a generation. elite: parents kept. longest: transforms of a genome.
      temperature: of the softmax, in units of scores.

    Reference: Liu et al. (2023), AutoDAN, arXiv 2310.04451: its operators, on transforms.
    """

    def step(state: Population, replies: Sequence[Reply]) -> tuple[Population, list[Ask]]:
        state = state._replace(elite=_select(state, replies, elite))
        hit = any(reply.is_hit for reply in replies)
        if hit or state.generation == generations or not pool:
            return state, []
        rng = generator(state.seed, state.goal, state.generation)
        asked = tuple(_child(state, pool, longest, temperature, rng) for _ in range(size))
        asks = [
            Ask(TARGET, human(transforms.apply(g, state.goal.text, rng)), transforms.told(g))
            for g in asked
        ]
        return state._replace(asked=asked, generation=state.generation + 1), asks

    return Attack("evolution", Population, step)


def _select(
    state: Population, replies: Sequence[Reply], count: int
) -> tuple[tuple[Genome, float], ...]:
    scored = [
        (genome, reply.score)
        for genome, reply in zip(state.asked, replies, strict=False)
        if not np.isnan(reply.score)
    ]
    best = dict(sorted([*state.elite, *scored], key=lambda one: one[1]))  # the last one stays
    return tuple(sorted(best.items(), key=lambda one: -one[1])[:count])


def _child(
    state: Population,
    pool: Sequence[transforms.Transform],
    longest: int,
    temperature: float,
    rng: np.random.Generator,
) -> Genome:
    """A genome of two parents, or a random one while there are none."""
    if not state.elite:
        size = int(rng.integers(1, longest + 1))
        return tuple(pool[i] for i in rng.integers(len(pool), size=size))
    weight = special.softmax(np.array([score for _, score in state.elite]) / temperature)
    mother, father = (state.elite[i][0] for i in rng.choice(len(weight), size=2, p=weight))
    own = [*mother[: rng.integers(len(mother) + 1)], *father[rng.integers(len(father) + 1) :]]
    return tuple(_mutated(own, pool, rng)[:longest])


def _mutated(
    own: list[transforms.Transform], pool: Sequence[transforms.Transform], rng: np.random.Generator
) -> list[transforms.Transform]:
    """One transform put in, taken out, or put in another's place."""
    new, at = pool[int(rng.integers(len(pool)))], int(rng.integers(len(own) + 1))
    kind = int(rng.integers(3))
    if kind == 0 or at == len(own):
        return [*own[:at], new, *own[at:]]
    return [*own[:at], *([new] if kind == 1 else []), *own[at + 1 :]]
