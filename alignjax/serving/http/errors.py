"""Refusals in the form of OpenAI's interface."""

from typing import Any

from alignjax.serving import requests

RETRY_SECONDS = 1


class Refused(requests.Refusal):
    """A request that is answered by an error. status: of HTTP; param: the field that is wrong."""

    def __init__(self, message: str, status: int = 400, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param = status, param


CODES = {
    400: None,
    401: "invalid_api_key",
    404: "model_not_found",
    413: "request_too_large",
    429: "queue_full",
}
KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def status_of(refusal: requests.Refusal) -> int:
    """The status of HTTP."""
    if isinstance(refusal, requests.Full):
        return 429
    if isinstance(refusal, requests.UnknownModel):
        return 404
    return refusal.status if isinstance(refusal, Refused) else 400


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def body(
    message: str, status: int, param: str | None = None, *, code: str | None = None
) -> dict[str, Any]:
    """The JSON of an error; lone surrogates, which a client may send as a name, are spelled out.

    code: in place of the status's own.
    """
    message, param = _encodable(message), None if param is None else _encodable(param)
    kind = "server_error" if status >= 500 else KINDS.get(status, "invalid_request_error")
    return {
        "error": {
            "message": " ".join(message.split()),
            "type": kind,
            "param": param,
            "code": code or CODES.get(status),
        }
    }
