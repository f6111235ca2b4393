"""The tokenizer over HTTP, as vLLM has it: harnesses score by the ids that they get here."""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from alignjax.serving import engine as engines
from alignjax.serving.http import fields
from alignjax.serving.http.errors import Refused
from alignjax.text import chat, chat_format
from alignjax.text.tokenizers import interface

PATHS = ("/tokenizer_info", "/tokenize", "/detokenize")
Body = Callable[[Request], Awaitable[dict[str, Any]]]


def routes(engine: engines.Engine, body_of: Body) -> list[Route]:
    """The routes for an engine's tokenizer; body_of: the JSON object of a request."""
    speaker = engine.served.speaker

    async def info(request: Request) -> Response:
        return JSONResponse(info_of(speaker))

    async def tokenize(request: Request) -> Response:
        ids = ids_of(speaker, await body_of(request))
        longest = engine.limits.context
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": longest})

    async def detokenize(request: Request) -> Response:
        return JSONResponse({"prompt": text_of(speaker, await body_of(request))})

    ends = (info, tokenize, detokenize)
    methods = (["GET"], ["POST"], ["POST"])
    return [
        Route(path, end, methods=kinds)
        for path, end, kinds in zip(PATHS, ends, methods, strict=True)
    ]


def info_of(speaker: chat.Speaker) -> dict[str, Any]:
    """Names of the control tokens that begin, end and pad texts, None where there is none."""
    own = speaker.tokenizer if isinstance(speaker, chat_format.ChatFormat) else speaker
    names = {number: name for name, number in own.special.items()}
    ids = {"bos_token": own.bos_id, "eos_token": own.eos_id, "pad_token": own.pad_id}
    return {
        "tokenizer_class": type(own).__name__,
        **{name: None if number is None else names.get(number) for name, number in ids.items()},
        "add_bos_token": own.starts_with_bos,
        "chat_template": getattr(own, "chat_template", None),
        "fingerprint": own.fingerprint,
    }


def ids_of(speaker: chat.Speaker, sent: dict[str, Any]) -> list[int]:
    """The ids of `prompt`, with BOS where the model's files say so unless add_special_tokens=false.

    A prompt that is the name of a control token and nothing else is that token: so harnesses ask
    for its id. Within a text such a name is text.

    Raises:
      Refused: another field, or a value of another kind.
    """
    fields.check_names(sent, ("prompt", "add_special_tokens", "model"))
    prompt, special = sent.get("prompt"), sent.get("add_special_tokens", True)
    if not isinstance(prompt, str) or not isinstance(special, bool):
        raise Refused("prompt must be a text, and add_special_tokens true or false; got another.")
    fields.check_text("prompt", prompt)
    if prompt in speaker.special:
        return [speaker.special[prompt]]
    return interface.document_start(speaker, prompt, None if special else False)


def text_of(speaker: chat.Speaker, sent: dict[str, Any]) -> str:
    """The text of `tokens`; control tokens give none.

    Raises:
      Refused: another field, or no list of ids of the vocabulary.
    """
    fields.check_names(sent, ("tokens", "model"))
    tokens = sent.get("tokens")
    size = speaker.vocab_size
    if not isinstance(tokens, list) or not all(type(t) is int and 0 <= t < size for t in tokens):
        raise Refused(f"tokens must be a list of ids below {size}; got another.", param="tokens")
    return speaker.decode(tokens)
