"""Requests of OpenAI's interface, read from JSON; nothing that is sent is silently passed over."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignjax.serving import engine as engines
from alignjax.serving import requests, slots, steps
from alignjax.serving.http.errors import Refused
from alignjax.text import chat
from alignjax.text.tokenizers import interface

MOST_PROMPTS = 128  # of one request for completions
MOST_TURNS = 4096
LONGEST_TOKEN = 256  # characters
ROLES = {
    "system": chat.SYSTEM,
    "developer": chat.SYSTEM,
    "user": chat.HUMAN,
    "assistant": chat.ASSISTANT,
}
# Fields that are understood only where they ask for nothing.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "store": (False,),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "suffix": ("",),
}
COMMON = (
    "model", "max_tokens", "temperature", "top_p", "top_k", "n", "seed", "stop", "stream",
    "stream_options", "logprobs", "user", "presence_penalty", "frequency_penalty", "logit_bias",
)  # fmt: skip
CHAT = (
    *COMMON, "messages", "max_completion_tokens", "top_logprobs", "response_format", "tools",
    "tool_choice", "parallel_tool_calls", "store", "modalities", "service_tier",
)  # fmt: skip
COMPLETIONS = (*COMMON, "prompt", "echo", "best_of", "suffix")


class Asked(NamedTuple):
    """A request that was understood.

    requests: one a prompt. turns: of each, as guards see them. texts: of prompts that come back
    (`echo`). usage: whether a stream ends with the tokens used.
    """

    is_chat: bool
    model: str
    requests: tuple[requests.Request, ...]
    turns: tuple[tuple[chat.Turn, ...], ...]
    texts: tuple[str, ...]
    stream: bool = False
    usage: bool = False


def of_chat(sent: Mapping[str, Any], speaker: chat.Speaker, limits: slots.Limits) -> Asked:
    """A request for a chat completion.

    Raises:
      Refused: a field is unknown, or its value not allowed.
    """
    check_names(sent, CHAT)
    turns = _turns(sent.get("messages"))
    _check_size([turn.text for turn in turns], limits.context, "messages")
    try:
        prompt, _ = chat.encode_chat(speaker, turns, generation_prompt=True)
    except ValueError as error:
        raise Refused(str(error), param="messages") from None
    flag = _of_kind(sent, "logprobs", bool, False)
    top = _integer(sent, "top_logprobs", 0, 0, steps.TOP)
    if top and not flag:
        raise Refused("top_logprobs must come with logprobs; got none.", param="top_logprobs")
    room = limits.context - len(prompt)
    name = "max_completion_tokens" if _has(sent, "max_completion_tokens") else "max_tokens"
    wanted = _integer(sent, name, max(room, 1), 1, 2**31 - 1)
    options = _options(sent, max_tokens=wanted, top=top if flag else requests.NO_SCORES)
    return _asked(sent, True, [tuple(prompt)], [turns], options, [""])


def of_completions(sent: Mapping[str, Any], speaker: chat.Speaker, limits: slots.Limits) -> Asked:
    """A request for completions of texts or tokens.

    Raises:
      Refused: a field is unknown, or its value not allowed.
    """
    check_names(sent, COMPLETIONS)
    prompts = _prompts(sent.get("prompt"))
    for prompt in prompts:
        _check_size([prompt] if isinstance(prompt, str) else [], limits.context, "prompt")
    encoded, texts = [], []
    for prompt in prompts:
        encoded.append(tuple(_encoded(speaker, prompt)))
        texts.append(prompt if isinstance(prompt, str) else chat.sampled_text(speaker, prompt))
    top = requests.NO_SCORES
    if _has(sent, "logprobs"):
        top = _integer(sent, "logprobs", 0, 0, steps.TOP)
    echo = _of_kind(sent, "echo", bool, False)
    wanted = _integer(sent, "max_tokens", 16, 0, 2**31 - 1)
    if wanted == 0 and not echo:
        raise Refused("max_tokens must be at least 1 without echo; got 0.", param="max_tokens")
    if _has(sent, "best_of") and sent["best_of"] != sent.get("n", 1):
        raise Refused("best_of must equal n; got another.", param="best_of")
    options = _options(sent, max_tokens=wanted, top=top, echo=echo)
    turns = [(chat.Turn(chat.HUMAN, text),) for text in texts]
    return _asked(sent, False, encoded, turns, options, texts)


def _asked(
    sent: Mapping[str, Any],
    is_chat: bool,
    prompts: Sequence[tuple[int, ...]],
    turns: Sequence[tuple[chat.Turn, ...]],
    options: requests.Options,
    texts: Sequence[str],
) -> Asked:
    model, stream = _of_kind(sent, "model", str, ""), _of_kind(sent, "stream", bool, False)
    if not model:
        raise Refused("model must be the name of a model; got none.", param="model")
    choices = _integer(sent, "n", 1, 1, 2**31 - 1)
    own = [
        requests.Request(
            prompt=prompt, options=options, choices=choices, model=model, within=not is_chat
        )
        for prompt in prompts
    ]
    usage = _usage(sent, stream)
    return Asked(is_chat, model, tuple(own), tuple(turns), tuple(texts), stream, usage)


def _options(sent: Mapping[str, Any], **own: Any) -> requests.Options:
    stop = sent.get("stop")
    stop = [] if stop is None else [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or not all(isinstance(text, str) for text in stop):
        raise Refused("stop must be a text or a list of texts; got another.", param="stop")
    for text in stop:
        check_text("stop", text)
    options = requests.Options(
        temperature=_number(sent, "temperature", 1.0),
        top_p=_number(sent, "top_p", 1.0),
        top_k=_integer(sent, "top_k", 0, 0, 2**31 - 1),
        seed=_integer(sent, "seed", engines.fresh_seed(), -(2**63), 2**63 - 1),
        stop=tuple(stop),
        **own,
    )
    try:
        options.validate()
    except ValueError as error:
        raise Refused(str(error)) from None
    return options


def _usage(sent: Mapping[str, Any], stream: bool) -> bool:
    if not _has(sent, "stream_options"):
        return False
    own = sent["stream_options"]
    if not stream or not isinstance(own, dict) or not own.keys() <= {"include_usage"}:
        raise Refused(
            "stream_options must be an object with include_usage, of a stream; got another.",
            param="stream_options",
        )
    return _of_kind(own, "include_usage", bool, False)


def check_names(sent: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises Refused where fields were sent that are not known."""
    unknown = [name for name in sent if name not in known]
    if unknown:
        named = ", ".join(repr(name[:80]) for name in unknown[:8])
        raise Refused(
            f"fields must be among {', '.join(known)}; got {named}. Leave it out.",
            param=unknown[0][:80],
        )
    for name, allowed in NEUTRAL.items():
        if _has(sent, name) and not any(
            sent[name] == value and isinstance(sent[name], bool) == isinstance(value, bool)
            for value in allowed
        ):
            shown = " or ".join(map(repr, allowed))
            raise Refused(
                f"{name} must be {shown}, as this server has no more; got another. Leave it out.",
                param=name,
            )


def _check_size(texts: Sequence[str], context: int, param: str) -> None:
    """Refuses a text that can't fit before it is tokenised."""
    size = sum(map(len, texts))
    if size > LONGEST_TOKEN * context:
        raise Refused(
            f"a prompt must fit in a context of {context} tokens; got {size} characters.",
            param=param,
        )


def _turns(messages: Any) -> tuple[chat.Turn, ...]:
    if not isinstance(messages, list) or not 0 < len(messages) <= MOST_TURNS:
        raise Refused(
            f"messages must be a list of 1 to {MOST_TURNS} objects; got another.", param="messages"
        )
    return tuple(_turn(number, message) for number, message in enumerate(messages))


def _turn(number: int, message: Any) -> chat.Turn:
    where = f"messages[{number}]"
    own = {k for k, v in message.items() if v is not None} if isinstance(message, dict) else set()
    if not own or not own <= {"role", "content"}:
        raise Refused(
            f"{where} must be an object with role and content alone; got another.",
            param="messages",
        )
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise Refused(
            f"{where}.role must be one of {', '.join(ROLES)}; got {role!r:.80}.", param="messages"
        )
    text = "".join(map(_part, content)) if isinstance(content, list) else content
    if not isinstance(text, str):
        raise Refused(
            f"{where}.content must be a text, or parts of type text; got another.",
            param="messages",
        )
    check_text(f"{where}.content", text)
    return chat.Turn(ROLES[role], text)


def _part(part: Any) -> str:
    """The text of a part of a message."""
    right = isinstance(part, dict) and part.keys() == {"type", "text"} and part["type"] == "text"
    if not right or not isinstance(part["text"], str):
        raise Refused("parts of a message must be of type text; got another.", param="messages")
    return part["text"]


def _prompts(sent: Any) -> list[str | list[int]]:
    """Prompts as texts or tokens, of one or several."""
    if isinstance(sent, str) or (isinstance(sent, list) and _is_tokens(sent)):
        sent = [sent]
    right = isinstance(sent, list) and 0 < len(sent) <= MOST_PROMPTS
    if not right or not all(isinstance(own, str) or _is_tokens(own) for own in sent):
        raise Refused(
            f"prompt must be a text, a list of token ids, or at most {MOST_PROMPTS} of them; got "
            "another.",
            param="prompt",
        )
    return sent


def _is_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(token) is int for token in value)


def _encoded(speaker: chat.Speaker, prompt: str | list[int]) -> Sequence[int]:
    """The ids of a prompt; an empty text is the token that begins texts, if there is one."""
    if not isinstance(prompt, str):
        if min(prompt) < 0 or max(prompt) >= 2**31:
            raise Refused("prompt must have ids of the vocabulary; got others.", param="prompt")
        return prompt
    check_text("prompt", prompt)
    if prompt or speaker.bos_id is None:
        return interface.document_start(speaker, prompt)
    return [speaker.bos_id]


def check_text(name: str, text: str) -> None:
    """Raises Refused where a text holds NUL or lone surrogates."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise Refused(
            f"{name} must be Unicode without NUL and lone surrogates; got one.",
            param=name.partition("[")[0],
        )


def _has(sent: Mapping[str, Any], name: str) -> bool:
    return sent.get(name) is not None


def _of_kind(sent: Mapping[str, Any], name: str, kind: Any, default: Any) -> Any:
    value = sent.get(name)
    if value is None:
        return default
    if type(value) is not kind:
        words = {bool: "true or false", str: "a text"}
        raise Refused(f"{name} must be {words[kind]}; got {value!r:.80}.", param=name)
    return value


def _integer(sent: Mapping[str, Any], name: str, default: int, minimum: int, maximum: int) -> int:
    value = sent.get(name)
    if value is None:
        return default
    if type(value) is not int or not minimum <= value <= maximum:
        raise Refused(
            f"{name} must be a whole number from {minimum} to {maximum}; got {value!r:.80}.",
            param=name,
        )
    return value


def _number(sent: Mapping[str, Any], name: str, default: float) -> float:
    value = sent.get(name)
    if value is None:
        return default
    if type(value) not in (int, float) or abs(value) > 1e30 or not math.isfinite(value):
        raise Refused(f"{name} must be a number; got {value!r:.80}.", param=name)
    return float(value)
