"""GCG against goals as text: tasks of a tokenizer and template, within a budget of tokens."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.models import model as models
from alignjax.models import transformer
from alignjax.models.adapters import merge
from alignjax.parallel import axes
from alignjax.redteam import attack, gcg, goals, search, target
from alignjax.text import chat


class WhiteBox(NamedTuple):
    """A target whose weights are at hand. params: bound."""

    model: models.Model
    params: Any
    speech: target.Speech
    eos: int


def weights_of(params: Any) -> transformer.Transformer:
    """The weights with adapters joined.

    Raises:
      ValueError: they are no Transformer's.
    """
    whole = merge.whole(params)
    if not isinstance(whole, transformer.Transformer):
        raise ValueError(
            f"gcg must have the weights of a Transformer; got {type(whole).__name__}. Take another "
            "attack."
        )
    return whole


def legal_ids(speaker: chat.Speaker, vocab: int) -> np.ndarray:
    """[V] bool: ids of printable ASCII that their own text is read as."""
    legal = np.zeros(vocab, bool)
    special = set(speaker.special.values())
    ids = [i for i in range(min(vocab, speaker.vocab_size)) if i not in special]
    texts = [speaker.decode([i]) for i in ids]
    for token, text, back in zip(ids, texts, speaker.encode_many(texts), strict=True):
        legal[token] = bool(text) and text.isascii() and text.isprintable() and back == [token]
    return legal


def task_of(own: WhiteBox, goal: goals.Goal) -> gcg.Task:
    """The ids around a suffix that stands right behind the goal, and those that are wanted."""
    asked = search.human(goal.text)
    ids, (_, tail) = own.speech.ids(asked), own.speech.frame(())
    answer = chat.Turn(chat.ASSISTANT, goal.begins)
    said, mask = chat.continue_chat(own.speech.speaker, own.speech.turns(asked), [answer])
    wanted = [token for token, counts in zip(said, mask, strict=True) if counts]
    wanted = wanted[:-1] if wanted and wanted[-1] == own.eos else wanted
    return gcg.Task(tuple(ids[: len(ids) - len(tail)]), tuple(tail), tuple(wanted))


def keeper(own: WhiteBox, goal: goals.Goal, task: gcg.Task) -> gcg.Keeps:
    """Whether goal and suffix, as text between the template's ids, are read as these very ids."""

    def keeps(suffix: Sequence[int]) -> bool:
        text = goal.text + own.speech.speaker.decode(suffix)
        ids = own.speech.ids(search.human(text))
        return ids == [*task.before, *map(int, suffix), *task.after]

    return keeps


def run(
    own: WhiteBox,
    targets: Sequence[goals.Goal],
    asked: attack.Asked,
    config: gcg.GcgConfig,
    *,
    budget: int,
    log: Callable[[str], None] = lambda line: None,
    keep: attack.Keep = lambda attempt: None,
) -> attack.Outcome:
    """A suffix for every goal, as many steps as the budget pays for, and one question with it.

    Raises:
      ValueError: a goal does not say how a complying answer begins, or there are several devices;
        as of `gcg.search`.
    """
    for goal in targets:
        if not goal.begins:
            raise ValueError(
                f"goals must have a target for gcg, how a complying answer begins; got none for "
                f"goal {goal.name} (--goals). Add it, or leave gcg out."
            )
    if axes.has_mesh():
        raise ValueError(
            "gcg must run on one device; got a mesh of several (attack). Show it one device, or "
            "export the run and give --model."
        )
    searcher = gcg.Searcher(own.model, weights_of(own.params), config.rows)
    legal = legal_ids(own.speech.speaker, own.model.vocab_size)
    found = attack.Outcome("gcg", tuple(goal.name for goal in targets), False, budget, keep=keep)
    for number, goal in enumerate(targets):
        task = task_of(own, goal)
        steps = _steps(task, config, budget - asked.target.limit)
        if steps < 1:
            found.counted["no budget"] += 1
            continue
        seeded = dataclasses.replace(config, steps=steps, seed=config.seed + number)
        best = gcg.search(searcher, task, legal, seeded, keeps=keeper(own, goal, task))
        found.counted["dropped suffixes"] += best.dropped
        text = goal.text + own.speech.speaker.decode(best.suffix)
        note = f"loss={best.loss:.3f} steps={steps}"
        attack.ask_once(goal, search.Ask(search.TARGET, search.human(text), note), asked, found,
                        spent=best.tokens)  # fmt: skip
        log(f"gcg: goal {goal.name}, loss {best.losses[0]:.3f} to {best.loss:.3f} nats a token")
    return found


def _steps(task: gcg.Task, config: gcg.GcgConfig, budget: int) -> int:
    """Steps that a budget pays for, with the question at the end."""
    tail = config.tokens + len(task.after) + len(task.wanted)
    whole = len(task.before) + tail
    rest = budget - len(task.before) - tail - whole  # the start's loss, the question
    return min(config.steps, rest // (config.width * tail + whole))
