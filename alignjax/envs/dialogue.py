"""Environments that speak text: an answer is read as text, a reply is laid out by the template.

The row stays as it was sampled: what is decoded is for the environment to read alone. What it says
becomes the ids that the data's template puts between the end of an answer and the next one. A
template that writes a conversation otherwise once it goes on is refused.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.core import shapes
from alignjax.envs import env
from alignjax.text import chat, templates

ROLES = ("user", "tool")
# Of a conversation that is laid out in parts, to compare them; longer texts would show no more.
CALL_ID = "a" * 9  # of a result whose call has none, for templates with ids
PROBE = ("One?", "Two.", "Three?", "Four.", "Five?")


class Reply(NamedTuple):
    """What an environment says to N answers, as `env.Step` with texts for ids."""

    texts: Sequence[str]
    rewards: np.ndarray
    done: np.ndarray
    states: Sequence[Any]


@dataclasses.dataclass(kw_only=True)
class DialogueConfig(env.EnvConfig):
    """Base class of environments that speak text: `begin` and `reply`.

    The first observation is the prompt of the data.
    """

    room: int = 128  # tokens of a reply with its template at most; a row with a longer one is cut
    role: str = "user"  # who speaks: user | tool (the result of a call)

    def validate(self) -> None:
        super().validate()
        shapes.check_choice(f"{type(self).__name__}.role", self.role, ROLES)

    def opened(self, setting: env.Setting) -> env.Env:
        return Dialogue(self, setting)

    def begin(self, tasks: Sequence[env.Task], keys: np.ndarray) -> Sequence[Any]:
        """[N] states of the first turn; tasks, keys: as for `EnvConfig.start`."""
        raise NotImplementedError

    def reply(self, states: Sequence[Any], texts: Sequence[str]) -> Reply:
        """What N answers lead to; texts: without the token that ends them."""
        raise NotImplementedError


class Dialogue:
    """A `DialogueConfig` at work with the data's tokenizer and template.

    Raises:
      ValueError: the data are no text, or the template does not extend its own prefix.
    """

    def __init__(self, config: DialogueConfig, setting: env.Setting):
        name = type(config).__name__
        if setting.speaker is None:
            raise ValueError(
                f"{name} needs data with a tokenizer; this data has none (algorithm.env). Use "
                "data of texts, or an environment of ids."
            )
        self._config, self._eos, self._speaker = config, setting.eos, setting.speaker
        self._ends = {setting.eos, *setting.speaker.ends}  # an answer may end otherwise than a turn
        self._role = config.role
        if config.role == "user" and not isinstance(setting.speaker, chat.chat_format.ChatFormat):
            self._role = chat.HUMAN
        self._check_prefixes()
        least = len(self.bridge("", ended=True))
        if least >= config.room:
            raise ValueError(
                f"{name}.room must be above the template's own {least} tokens of a turn; got "
                f"{config.room} (algorithm.env). Raise it."
            )

    def start(
        self, tasks: Sequence[env.Task], keys: np.ndarray
    ) -> tuple[Sequence[env.Ids], Sequence[Any]]:
        states = self._config.begin(tasks, keys)
        return [[] for _ in tasks], states

    def step(self, states: Sequence[Any], answers: Sequence[env.Ids]) -> env.Step:
        ended = [bool(len(ids)) and ids[-1] in self._ends for ids in answers]
        texts = [
            chat.sampled_text(self._speaker, ids[:-1] if is_ended else ids)
            for ids, is_ended in zip(answers, ended, strict=True)
        ]
        found = self._config.reply(states, texts)
        # What is said at an end is read by nobody.
        said = [
            [] if done else self.bridge(text, ended=is_ended)
            for text, done, is_ended in zip(found.texts, found.done, ended, strict=True)
        ]
        return env.Step(said, found.rewards, found.done, found.states)

    def bridge(self, text: str, *, ended: bool) -> list[int]:
        """Ids from the end of an answer to where the next begins, with `text` between.

        ended: whether the answer has its end; one that was cut off gets it here, untrained.
        """
        return self.follow(_turns(self._role, ["", "a", text])[2:], ended=ended)

    def follow(self, turns: Sequence[Any], *, ended: bool) -> list[int]:
        """Ids from the end of an answer to where the next begins, with these turns between."""
        opening = _turns(self._role, ["", "a"])
        before = self._until_end(opening)
        ids, _ = chat.encode_chat(self._speaker, [*opening, *turns], generation_prompt=True)
        return ([] if ended else [self._eos]) + ids[len(before) :]

    def _until_end(self, turns: Sequence[Any]) -> list[int]:
        """Ids of a conversation up to the end token of its last answer."""
        ids, mask = chat.encode_chat(self._speaker, turns)
        last = len(mask) - 1 - mask[::-1].index(True)
        if ids[last] != self._eos:
            raise ValueError(
                f"answers must end with the token at which sampling stops, {self._eos}; the "
                f"template ends them with {ids[last]} (algorithm.env). Use the template's own eos."
            )
        return ids[: last + 1]

    def _check_prefixes(self) -> None:
        """Compares the layouts of a conversation of three turns, each with the next longer one."""
        turns = _turns(self._role, PROBE)
        grown: list[list[int]] = []
        for count in range(1, len(turns) + 1):
            part = turns[:count]
            if count % 2:
                grown.append(chat.encode_chat(self._speaker, part, generation_prompt=True)[0])
            else:
                grown.append(self._until_end(part))
        for shorter, longer in itertools.pairwise(grown):
            if longer[: len(shorter)] != shorter:
                self._refuse(shorter, longer)

    def _refuse(self, shorter: list[int], longer: list[int]) -> None:
        pairs = zip(shorter, longer, strict=False)
        place = next((i for i, (a, b) in enumerate(pairs) if a != b), len(longer))
        was, now = (_piece(self._speaker, ids, place) for ids in (shorter, longer))
        raise ValueError(
            "the template must lay out a conversation that goes on as it did before, or ids would "
            f"change after they were sampled; got {now} in place of {was} at token {place} of a "
            f"conversation of 3 turns (algorithm.env of {type(self._config).__name__}). Use a "
            "template that keeps earlier turns, such as that of a model that doesn't think."
        )


def _turns(role: str, texts: Sequence[str]) -> list[Any]:
    """Question and answer in turn; what follows an answer is of `role`."""
    human = chat.HUMAN if role != "user" else "user"
    names = [human, *[(chat.ASSISTANT, role)[index % 2] for index in range(len(texts) - 1)]]
    if role == "tool":  # what a tool says answers a call
        call = templates.Call("f", {}, CALL_ID)
        calls = {chat.ASSISTANT: (call,)}
        return [
            templates.Message(name, text, calls.get(name, ()), CALL_ID)
            for name, text in zip(names, texts, strict=True)
        ]
    return [chat.Turn(*turn) for turn in zip(names, texts, strict=True)]


def _piece(speaker: chat.Speaker, ids: list[int], place: int) -> str:
    """The token at a place, as text and id."""
    if place >= len(ids):
        return "nothing"
    control = {number: name for name, number in _special(speaker).items()}
    found = ids[place]
    return f"{control.get(found) or speaker.decode([found])!r} ({found})"


def _special(speaker: chat.Speaker) -> Any:
    if isinstance(speaker, chat.chat_format.ChatFormat):
        return speaker.special
    return speaker.control
