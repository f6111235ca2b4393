"""Attacks by name, as commands and experiments choose them."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from alignjax.redteam import dialogue, evolution, search, transforms


class Choice(NamedTuple):
    """What attacks are made of. attempts: of a goal at most, where an attack has no end of its own.
    shots: (question, answer) of dialogues in which an assistant complies."""

    attempts: int = 64
    pool: Sequence[transforms.Transform] = transforms.TRAIN
    shots: Sequence[tuple[str, str]] = ()


def _evolution(choice: Choice) -> search.Attack:
    size = min(8, choice.attempts)
    return evolution.evolution(choice.pool, size=size, generations=choice.attempts // size)


def _many_shot(choice: Choice) -> search.Attack:
    if not choice.shots:
        raise ValueError(
            "many_shot must have dialogues to show; got none. Name a file of prompt and answer by "
            "--shots."
        )
    return search.many_shot(choice.shots)


GCG = "gcg"  # asks for weights, and is no step of conversations: `suffixes`
ATTACKS: Mapping[str, Callable[[Choice], search.Attack]] = {
    "best_of_n": lambda choice: search.best_of_n(choice.attempts, choice.pool),
    "each_transform": lambda choice: search.each_transform(choice.pool),
    "evolution": _evolution,
    "many_shot": _many_shot,
    "pair": lambda choice: dialogue.pair(),
    "tap": lambda choice: dialogue.tap(),
    "crescendo": lambda choice: dialogue.crescendo(),
}
WRITTEN = ("pair", "tap", "crescendo")  # by an attacker
