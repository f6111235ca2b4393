"""A conversation with a served model: its turns, and which are left out when it grows too long."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from alignjax.serving import engine
from alignjax.serving.requests import ERROR, Options, Refusal, Request
from alignjax.text import chat

ROLES = {chat.SYSTEM: "system", chat.HUMAN: "user", chat.ASSISTANT: "assistant"}


class Conversation:
    """Turns of a person and of a model that answers them, one answer at a time.

    model: the served model's name, or an adapter's. forgotten: how many of the oldest turns no
    longer fit the context beside room for an answer; the system prompt always stands.
    """

    def __init__(self, serving: engine.Engine, options: Options, *, system: str = "") -> None:
        options.validate()
        self._engine, self._options = serving, options
        self.system, self.model = system, serving.served.name
        self.turns: list[chat.Turn] = []
        self.forgotten = 0
        self._drawn = 0  # answers so far: each has a seed of its own

    def answer(self, text: str) -> Iterator[str]:
        """The pieces of the answer to a person's next turn. What was said until then is kept where
        the loop is left; nothing is where there is no answer at all.

        Raises:
          Refusal: it does not fit the context, or the layout of chats refuses it.
        """
        self.turns.append(chat.Turn(chat.HUMAN, text))
        said = ""
        try:
            for event in self._engine.stream(self._request()):
                if event.finish == ERROR:
                    raise Refusal(event.text)
                said += event.text
                if event.text:
                    yield event.text
        finally:
            if said:
                self.turns.append(chat.Turn(chat.ASSISTANT, said))
            else:
                self.turns.pop()

    def undo(self) -> str:
        """Takes the last exchange back; what the person had said, "" if nobody has spoken."""
        if not self.turns:
            return ""
        said = self.turns[-2].text
        del self.turns[-2:]
        return said

    def choose(self, name: str) -> None:
        """Another model answers from now on.

        Raises:
          UnknownModel: there is none of that name.
        """
        self._engine.number_of(name)
        self.model = name

    def messages(self) -> list[dict[str, Any]]:
        """The conversation as a list of {"role", "content"}, the form of training rows."""
        return [{"role": ROLES[turn.role], "content": turn.text} for turn in self._all(self.turns)]

    def _all(self, turns: list[chat.Turn]) -> list[chat.Turn]:
        return [chat.Turn(chat.SYSTEM, self.system), *turns] if self.system else turns

    def _request(self) -> Request:
        context, wanted = self._engine.limits.context, self._options.max_tokens
        for start in range(0, len(self.turns), 2):  # whole exchanges, the oldest first
            prompt = self._encoded(self.turns[start:])
            room, self.forgotten = context - len(prompt), start
            if room >= min(wanted, context // 4):
                break
        if room < 1:
            raise Refusal(
                f"a turn must leave room for an answer in a context of {context} tokens; got "
                f"{len(prompt)} tokens. Shorten it, or ask for more with --context."
            )
        self._drawn += 1
        options = dataclasses.replace(
            self._options,
            max_tokens=min(wanted, room),
            seed=self._options.seed + self._drawn - 1,
        )
        return Request(prompt=tuple(prompt), options=options, model=self.model)

    def _encoded(self, turns: list[chat.Turn]) -> list[int]:
        speaker = self._engine.served.speaker
        try:
            return chat.encode_chat(speaker, self._all(turns), generation_prompt=True)[0]
        except ValueError as error:
            raise Refusal(str(error)) from None
