"""What an engine is asked, and what it tells as it answers."""

import dataclasses
from typing import NamedTuple

from alignjax.core import shapes

STOP, LENGTH, CANCELLED, ERROR = "stop", "length", "cancelled", "error"
NO_SCORES = -1
PROMPT = -1  # the choice of events that tell of the prompt
STOPS, STOP_LENGTH = 16, 1000  # texts of a request that end its answer; characters of one
LARGEST_TEMPERATURE = 100.0


class Refusal(ValueError):
    """A request that is not taken; the message says why."""


class Full(Refusal):
    """As many requests wait as may."""


class UnknownModel(Refusal):
    """Neither the model nor an adapter has that name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How an answer is drawn.

    temperature: divides the logits; 0 is greedy. top_k: 0 keeps all. max_tokens: 0 only reads the
    prompt. seed: choice i is drawn as row i of `sampling.generate` with this seed. top: most likely
    tokens told of each token; NO_SCORES for none. echo: whether the prompt's tokens are told, with
    scores if `top` is not NO_SCORES.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    max_tokens: int = 16
    stop: tuple[str, ...] = ()
    top: int = NO_SCORES
    echo: bool = False

    def validate(self) -> None:
        """Raises ValueError where a value is not allowed."""
        shapes.check_number("temperature", self.temperature, minimum=0, maximum=LARGEST_TEMPERATURE)
        shapes.check_number("top_k", self.top_k, minimum=0, maximum=2**31 - 1)
        shapes.check_number("top_p", self.top_p, above=0, maximum=1)
        shapes.check_number("max_tokens", self.max_tokens, minimum=0)
        if len(self.stop) > STOPS or not all(0 < len(text) <= STOP_LENGTH for text in self.stop):
            raise ValueError(
                f"stop must be at most {STOPS} texts of 1 to {STOP_LENGTH} characters; got "
                f"{len(self.stop)} texts."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """Tokens to continue. choices: answers wanted. model: the model's name or an adapter's; ""
    is the model's. within: whether answers continue the prompt's text."""

    prompt: tuple[int, ...]
    options: Options = Options()
    choices: int = 1
    model: str = ""
    within: bool = False


class Scored(NamedTuple):
    """A token; its log-probability under the model's own law (temperature 1, nothing cut off),
    nats, None where nothing stands before it; the most likely tokens with theirs."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


class Event(NamedTuple):
    """What is new of a choice: tokens, characters that they complete, why it ended if it did.

    choice: PROMPT for the prompt's own tokens. A finish of ERROR has its reason as the text.
    """

    choice: int
    scored: tuple[Scored, ...] = ()
    text: str = ""
    finish: str = ""
