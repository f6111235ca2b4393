"""A rater that is a program: the requests of the page, sent by HTTP."""

import http.client
import json
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

from alignjax.core import untrusted

# What is shown, as the page gets it -> the judgements of a submission.
Answer = Callable[[Mapping[str, Any]], list[dict[str, Any]]]


class Client:
    """One rater's connection to a server; it is opened again where the server closed it."""

    def __init__(self, address: str, token: str) -> None:
        parts = urllib.parse.urlsplit(address)
        if parts.scheme != "http" or not parts.hostname or parts.port is None:
            raise ValueError(
                f"an address must be a server's with its port; got {address!r} (client)."
            )
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def post(self, name: str, **fields: Any) -> dict[str, Any]:
        """What the server answers to a request that may change something.

        Raises:
          ValueError: the server refused it.
        """
        return self._ask("POST", name, json.dumps(fields))

    def progress(self) -> dict[str, Any]:
        """The rater's items: done, skipped, left."""
        return self._ask("GET", "progress")

    def _ask(self, method: str, name: str, body: str | None = None) -> dict[str, Any]:
        try:
            response = self._sent(method, name, body)
        except ConnectionError:  # closed after some idle seconds; next and submit may be sent twice
            self._connection.close()
            response = self._sent(method, name, body)
        content = response.read(untrusted.CONFIG)  # cut above it, and no JSON any more
        answer: dict[str, Any] = untrusted.parse_json(content, f"the answer to {name}")
        if response.status != http.HTTPStatus.OK:
            raise ValueError(f"{answer.get('error', response.reason)} (feedback, {name})")
        return answer

    def _sent(self, method: str, name: str, body: str | None) -> http.client.HTTPResponse:
        self._connection.request(method, f"/api/{name}", body, self._headers)
        return self._connection.getresponse()

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()


def judge(client: Client, answer: Answer) -> bool:
    """Judges the next item of the client's rater; False where it is asked about none.

    Raises:
      ValueError: the server refused a request.
    """
    shown = client.post("next")
    if shown["assignment"] is None:
        return False
    # One submission an assignment: sent again after a lost answer, it is stored once.
    key = f"{shown['item']}-{shown['assignment']}"
    client.post("submit", assignment=shown["assignment"], key=key, judgements=answer(shown))
    return True
