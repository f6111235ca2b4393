"""What is attacked: a model of one's own or an address, behind one function of conversations.

An attack may change what the user says, and nothing else. With a model of one's own that is
compared on token ids for every question: the ids around the user's text must be those around any
other text, and no id within may be a control token. A question that breaks this is not sent, and
counted. Every result carries a hash of the template and one of the system prompt: success under
one says nothing of another.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from alignjax.core import shapes
from alignjax.models import model as models
from alignjax.parallel import axes, hosts
from alignjax.redteam.search import Turns
from alignjax.rewards import remote_judge
from alignjax.sampling import calls, generate, transforms
from alignjax.text import chat

NEUTRAL = ("a", "b")  # two texts by which what stands around a text is known
SHORTEST = 16  # tokens; prompts are padded to powers of two from here


class Answer(NamedTuple):
    """An answer, and the tokens that the target read and wrote for it."""

    text: str
    read: int
    written: int


class Target(NamedTuple):
    """size: tokens of a question; None for one that may not be sent. ask: answers in order; None
    where the target takes none of it. limit: tokens of an answer. identity: what was attacked."""

    size: Callable[[Turns], int | None]
    ask: Callable[[Sequence[Turns]], list[Answer | None]]
    limit: int
    identity: Mapping[str, Any]


class Speech(NamedTuple):
    """How conversations become ids: a tokenizer with its template, and a system prompt or ""."""

    speaker: chat.Speaker
    system: str = ""

    def turns(self, said: Sequence[Any]) -> list[Any]:
        """The conversation below the system prompt."""
        return [*([chat.Turn(chat.SYSTEM, self.system)] if self.system else []), *said]

    def ids(self, said: Sequence[Any]) -> list[int]:
        """Ids up to where the assistant speaks."""
        return chat.encode_chat(self.speaker, self.turns(said), generation_prompt=True)[0]

    def frame(self, before: Sequence[Any]) -> tuple[list[int], list[int]]:
        """(ids before the user's next text, ids behind it), whatever the text is."""
        one, two = (self.ids([*before, chat.Turn(chat.HUMAN, text)]) for text in NEUTRAL)
        head = _shared(one, two)
        tail = _shared(one[head:][::-1], two[head:][::-1])
        return one[:head], one[len(one) - tail :]

    def touches_user_alone(self, said: Turns) -> bool:
        """Whether every text of the user leaves the ids around it as they are, and is text."""
        special = set(self.speaker.special.values())
        for number, turn in enumerate(said):
            if turn.role != chat.HUMAN:
                continue
            head, tail = self.frame(said[:number])
            ids = self.ids(said[: number + 1])
            inner = ids[len(head) : len(ids) - len(tail)]
            same = ids[: len(head)] == head and ids[len(ids) - len(tail) :] == tail
            if not same or len(ids) < len(head) + len(tail) or special & set(inner):
                return False
        return True

    @property
    def identity(self) -> dict[str, str]:
        """Hashes of the template, with its tokenizer, and of the system prompt."""
        return {"template": self.speaker.fingerprint, "system": sha(self.system)}


def sha(text: str) -> str:
    """sha256 in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _shared(one: Sequence[int], two: Sequence[int]) -> int:
    """How many first entries are equal."""
    pairs = zip(one, two, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(two)))


def local(
    model: models.Model,
    params: Any,
    speech: Speech,
    *,
    config: transforms.SamplingConfig,
    eos: int | Sequence[int],
    pad: int,
    identity: Mapping[str, Any],
    rows: int = 16,
    length: int = 2048,
    seed: int = 0,
) -> Target:
    """A model of one's own. Every question draws with a number of its own, in order.

    Args:
      params: bound, as the model reads them. rows: asked at once. length: tokens of a question at
      most; a longer one is not sent.
    """
    shapes.check_number("rows", rows, minimum=1)
    rows = -(-rows // axes.axis_size("batch")) * axes.axis_size("batch")  # on all devices alike
    draw = generate.make_generate(model, config, eos=eos, pad=pad)
    key, asked = jax.random.key(seed), 0

    def size(said: Turns) -> int | None:
        tokens = len(speech.ids(said))
        return tokens if tokens <= length and speech.touches_user_alone(said) else None

    def batch(ids: Sequence[list[int]]) -> list[Answer | None]:
        nonlocal asked
        width = max(SHORTEST, 1 << (max(map(len, ids)) - 1).bit_length())
        lengths = np.array([len(ids[min(i, len(ids) - 1)]) for i in range(rows)], np.int32)
        tokens = np.full((rows, width), pad, np.int32)
        for i in range(rows):  # the last one fills the batch, so that one program serves all
            tokens[i, : lengths[i]] = ids[min(i, len(ids) - 1)]
        numbers = np.arange(asked, asked + rows, dtype=np.int32)
        asked += len(ids)
        prompts, sizes, places = calls.placed((tokens, lengths, numbers))
        own = hosts.to_host(draw(params, prompts, sizes, key, rows=places))
        return [
            Answer(
                chat.sampled_text(speech.speaker, own.tokens[i, lengths[i] : own.lengths[i]]),
                int(lengths[i]),
                int(own.lengths[i] - lengths[i]),
            )
            for i in range(len(ids))
        ]

    def ask(questions: Sequence[Turns]) -> list[Answer | None]:
        ids = [speech.ids(said) for said in questions]
        starts = range(0, len(ids), rows)
        return [answer for start in starts for answer in batch(ids[start : start + rows])]

    told = {**identity, **speech.identity, "seed": seed, "temperature": config.temperature}
    return Target(size, ask, config.max_new_tokens, told)


ROLES = {chat.HUMAN: "user", chat.ASSISTANT: "assistant", chat.SYSTEM: "system"}


def remote(
    post: remote_judge.Post,
    name: str,
    *,
    config: transforms.SamplingConfig,
    system: str = "",
    identity: Mapping[str, Any],
    seed: int = 0,
) -> Target:
    """A model behind an OpenAI-compatible address.

    Its template is the server's own; tokens are those that the answer's `usage` tells.

    Raises:
      ValueError: from `ask`: nobody answers, or an answer does not tell its tokens.
    """
    asked = 0

    def one(said: Turns) -> Answer | None:
        nonlocal asked
        asked += 1
        turns = [*([chat.Turn(chat.SYSTEM, system)] if system else []), *said]
        body = {
            "model": name, "max_tokens": config.max_new_tokens, "top_p": config.top_p,
            "temperature": config.temperature, "seed": seed + asked,
            "messages": [{"role": ROLES[turn.role], "content": turn.text} for turn in turns],
        }  # fmt: skip
        try:
            return _answer(post(body))
        except remote_judge.Unanswered as error:
            if error.status in remote_judge.REFUSED:
                return None
            raise ValueError(
                f"the target's address must answer; got {error} (attack). Start its server."
            ) from None

    def ask(questions: Sequence[Turns]) -> list[Answer | None]:
        return [one(said) for said in questions]

    told = {**identity, "template": "the server's", "system": sha(system), "seed": seed}
    return Target(lambda said: 0, ask, config.max_new_tokens, told)


def _answer(body: Mapping[str, Any]) -> Answer:
    try:
        text = str(body["choices"][0]["message"]["content"] or "")
        usage = body["usage"]
        return Answer(text, int(usage["prompt_tokens"]), int(usage["completion_tokens"]))
    except (KeyError, IndexError, TypeError, ValueError):
        raise ValueError(
            "an answer of the target must hold choices and usage with prompt_tokens and "
            f"completion_tokens; got {', '.join(map(str, body))[:60]} (attack). Budgets are in "
            "tokens."
        ) from None


def texts(own: Target) -> Callable[[Sequence[Turns]], list[str]]:
    """The answers alone, as an attacker gives them; "" where there is none."""

    def ask(questions: Sequence[Turns]) -> list[str]:
        sent = [i for i, said in enumerate(questions) if own.size(said) is not None]
        found = [""] * len(questions)
        for i, answer in zip(sent, own.ask([questions[i] for i in sent]), strict=True):
            found[i] = "" if answer is None else answer.text
        return found

    return ask
