"""The JSON of OpenAI's interface."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

from alignjax.serving import requests
from alignjax.serving.http.answers import Answer, Part
from alignjax.text import chat, pieces


class Replies:
    """The objects that answer one request."""

    def __init__(self, answer: Answer, speaker: chat.Speaker) -> None:
        self._answer, self._asked, self._speaker = answer, answer.asked, speaker
        start = "chatcmpl" if self._asked.is_chat else "cmpl"
        self._head = {
            "id": f"{start}-{uuid.uuid4().hex}", "created": int(time.time()),
            "model": self._asked.model,
        }  # fmt: skip
        self._offsets: dict[int, int] = {}

    def _object(self, name: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": name, "choices": choices}

    def usage(self) -> dict[str, int]:
        """Tokens read and drawn."""
        prompt, drawn = sum(len(r.prompt) for r in self._asked.requests), self._answer.drawn
        return {
            "prompt_tokens": prompt, "completion_tokens": drawn, "total_tokens": prompt + drawn
        }  # fmt: skip

    def whole(self, parts: Sequence[Part]) -> dict[str, Any]:
        """The answer to a request that is no stream."""
        choices = [self._whole(part) for part in parts]
        name = "chat.completion" if self._asked.is_chat else "text_completion"
        return {**self._object(name, choices), "usage": self.usage()}

    def _whole(self, part: Part) -> dict[str, Any]:
        own: dict[str, Any] = {"index": part.choice, "finish_reason": part.finish}
        if self._asked.is_chat:
            message = {"role": "assistant", "content": part.text, "refusal": None}
            return {**own, "message": message, "logprobs": self._chat_scores(part)}
        prompt = self._prompt(part)
        scores = self._scores(part.choice, (*prompt.scored, *part.scored))
        return {**own, "text": prompt.text + part.text, "logprobs": scores}

    # --- streams ------------------------------------------------------------------------------

    def first(self) -> list[dict[str, Any]]:
        """What a stream begins with: the speaker of every choice."""
        if not self._asked.is_chat:
            return []
        delta = {"role": "assistant", "content": ""}
        count = len(self._asked.requests) * self._answer.choices
        return [self._chunk(n, {"delta": delta, "logprobs": None}, "") for n in range(count)]

    def part(self, part: Part, *, begins: bool) -> dict[str, Any] | None:
        """A part of a stream; None where there is nothing to send. begins: of its choice."""
        if self._asked.is_chat:
            scores = self._chat_scores(part)
            if not part.text and not part.finish and scores is None:
                return None
            delta = {"content": part.text} if part.text or not part.finish else {}
            return self._chunk(part.choice, {"delta": delta, "logprobs": scores}, part.finish)
        prompt = self._prompt(part) if begins else Part(part.choice)
        scored, text = (*prompt.scored, *part.scored), prompt.text + part.text
        scores = self._scores(part.choice, scored)
        if not text and not part.finish and scores is None:
            return None
        return self._chunk(part.choice, {"text": text, "logprobs": scores}, part.finish)

    def _chunk(self, choice: int, own: dict[str, Any], finish: str) -> dict[str, Any]:
        name = "chat.completion.chunk" if self._asked.is_chat else "text_completion"
        choices = [{"index": choice, **own, "finish_reason": finish or None}]
        return self._object(name, choices) | ({"usage": None} if self._asked.usage else {})

    def last(self) -> list[dict[str, Any]]:
        """What a stream ends with: the tokens used, if they were asked for."""
        if not self._asked.usage:
            return []
        name = "chat.completion.chunk" if self._asked.is_chat else "text_completion"
        return [{**self._object(name, []), "usage": self.usage()}]

    # --- scores -------------------------------------------------------------------------------

    def _prompt(self, part: Part) -> Part:
        """The prompt before a choice, where it comes back; never before what was blocked."""
        number = part.choice // self._answer.choices
        if not self._asked.requests[number].options.echo or number not in self._answer.prompts:
            return Part(part.choice)
        return Part(part.choice, self._answer.prompts[number], self._asked.texts[number])

    def _text(self, token: int) -> str:
        return pieces.spelled(self._speaker, token).decode("utf-8", errors="replace")

    def _chat_scores(self, part: Part) -> dict[str, Any] | None:
        if self._asked.requests[0].options.top == requests.NO_SCORES or not part.scored:
            return None

        def one(token: int, logprob: float | None) -> dict[str, Any]:
            own = list(pieces.spelled(self._speaker, token))
            return {"token": self._text(token), "logprob": logprob, "bytes": own}

        content = [
            {**one(own.token, own.logprob), "top_logprobs": [one(*best) for best in own.top]}
            for own in part.scored
        ]
        return {"content": content, "refusal": None}

    def _scores(self, choice: int, scored: Sequence[requests.Scored]) -> dict[str, Any] | None:
        """The scores of completions; the token itself is always among the most likely told."""
        if self._asked.requests[0].options.top == requests.NO_SCORES or not scored:
            return None
        tokens, offsets, offset = [], [], self._offsets.get(choice, 0)
        for own in scored:
            tokens.append(self._text(own.token))
            offsets.append(offset)
            offset += len(tokens[-1])
        self._offsets[choice] = offset
        return {
            "tokens": tokens,
            "token_logprobs": [own.logprob for own in scored],
            "top_logprobs": [self._most_likely(own) for own in scored],
            "text_offset": offsets,
        }

    def _most_likely(self, own: requests.Scored) -> dict[str, float] | None:
        if own.logprob is None:
            return None
        found: dict[str, float] = {}
        for token, logprob in own.top:
            found.setdefault(self._text(token), logprob)  # the likelier of two of one text
        found.setdefault(self._text(own.token), own.logprob)
        return found
