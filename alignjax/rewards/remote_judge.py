"""A judge behind an OpenAI-compatible address: the one place of the package that asks a network.

Nothing is sent anywhere unless a user names an address. A request that failed for good, an answer
that is not one of the options, or none, is NaN: counted, never a verdict.
"""

import hashlib
import ipaddress
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from alignjax.core import shapes, untrusted
from alignjax.rewards import judge

Post = Callable[[Mapping[str, Any]], Mapping[str, Any]]  # a request's body -> the answer's
ANSWER = 16 * 2**20  # bytes of an answer
SURE = 6.0  # logit of a verdict in words without probabilities: e^6 to 1
REFUSED = frozenset({400, 413, 422})  # statuses that are about the request, such as its length
RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})  # statuses worth another try


class Unanswered(Exception):
    """A request that failed for good. status: of HTTP; None where nobody answered."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def poster(
    address: str,
    *,
    token: str = "",
    timeout_s: float = 60.0,
    retries: int = 3,
    wait_s: float = 1.0,
    sleep: Callable[[float], None] = time.sleep,
) -> Post:
    """Posts bodies to ADDRESS/chat/completions; tries again after refusals that may pass.

    Waits double from try to try, or as long as Retry-After says, up to a minute.

    Raises:
      ValueError: the address is no http or https one. From the function: Unanswered.
    """
    check_address(address)
    shapes.check_number("timeout_s", timeout_s, above=0)
    shapes.check_number("retries", retries, minimum=0)
    head = {"Content-Type": "application/json"}
    if token:
        head["Authorization"] = f"Bearer {token}"

    def post(body: Mapping[str, Any]) -> Mapping[str, Any]:
        data = json.dumps(body).encode()
        last, status = "no try", None
        for attempt in range(retries + 1):
            request = urllib.request.Request(
                address.rstrip("/") + "/chat/completions", data=data, headers=head
            )
            wait, status = wait_s * 2**attempt, None
            try:
                with urllib.request.urlopen(request, timeout=timeout_s) as answer:
                    content = untrusted.take(answer, ANSWER, "answer")
                found = untrusted.parse_json(content, "the answer")
                if isinstance(found, Mapping):
                    return found
                last = f"an answer that is no object: {str(found)[:80]}"
            except urllib.error.HTTPError as error:
                last, status = f"status {error.code}", error.code
                if error.code not in RETRIED:
                    break
                after = error.headers.get("Retry-After", "") if error.headers else ""
                wait = float(after) if after.isdigit() else wait
            except (OSError, ValueError) as error:  # no connection, a timeout, no JSON
                last = f"{type(error).__name__}: {str(error)[:80]}"
            if attempt < retries:
                sleep(min(wait, 60.0))
        raise Unanswered(f"{last} ({address})", status)

    return post


def check_address(address: str) -> None:
    """Raises ValueError unless the address is one of http or https, without a password."""
    if not address.startswith(("http:", "https:")):
        raise ValueError(f"a judge's address must begin with http: or https:; got {address!r}.")
    if "@" in urllib.parse.urlsplit(address).netloc:
        raise ValueError(
            "a judge's address must hold no user and password; got some. Give a key apart."
        )


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own, by its number or as localhost."""
    host = urllib.parse.urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def remote(
    post: Post,
    model: str,
    *,
    name: str = "remote",
    template: str,
    options: tuple[str, str] = ("1", "2"),
    score_template: str = "",
    levels: Sequence[str] = ("1", "2", "3", "4", "5"),
    cache: MutableMapping[str, Any] | None = None,
    seed: int = 0,
) -> judge.Judge:
    """A judge by a remote model: the log-odds of two options, or its answer in words.

    Asked at temperature 0, with a seed, for one token and its alternatives. Where the address gives
    no probabilities, an answer that is one of the options, blanks and a full stop aside, is a sure
    verdict; any other text can't be read.

    Args:
      template: with {prompt}, {first}, {second}. score_template: with {prompt}, {answer}; without
        one it only compares. levels: the scores 1 .. M in words. cache: answers by the sha256 of
        their request, so that nothing is asked twice.

    Raises:
      ValueError: options are equal or empty.
    """
    if len(set(options)) < 2 or not all(options):
        raise ValueError(f"options must be two different texts; got {options!r} (judge).")

    def one(prompts: judge.Texts, first: judge.Texts, second: judge.Texts) -> np.ndarray:
        logits = []
        for p, x, y in zip(prompts, first, second, strict=True):
            text = template.format(prompt=p, first=x, second=y)
            logits.append(verdict(ask(text), options))
        return np.array(logits, np.float64)

    def ask(text: str) -> Mapping[str, Any] | None:
        return _answer(post, _body(model, text, seed), cache)

    def score(prompts: judge.Texts, answers: judge.Texts) -> np.ndarray:
        rows = zip(prompts, answers, strict=True)
        texts = [score_template.format(prompt=p, answer=x) for p, x in rows]
        return np.stack([distribution(ask(text), levels) for text in texts])

    return judge.Judge(name, judge.both_orders(one), score if score_template else None)


def asker(
    post: Post,
    model: str,
    *,
    template: str,
    options: tuple[str, str] = ("yes", "no"),
    cache: MutableMapping[str, Any] | None = None,
    seed: int = 0,
) -> judge.Ask:
    """How a remote model answers questions about answers: the logit of the first option.

    template: with {prompt}, {answer} and {question}; else as `remote`.
    """

    def ask(prompts: judge.Texts, answers: judge.Texts, question: str) -> np.ndarray:
        logits = []
        for p, x in zip(prompts, answers, strict=True):
            text = template.format(prompt=p, answer=x, question=question)
            logits.append(verdict(_answer(post, _body(model, text, seed), cache), options))
        return np.array(logits, np.float64)

    return ask


def writer(
    post: Post,
    model: str,
    *,
    max_tokens: int,
    cache: MutableMapping[str, Any] | None = None,
    seed: int = 0,
) -> Callable[[Sequence[str]], list[str]]:
    """How a remote model answers requests in words, at temperature 0; "" where it did not."""

    def write(requests: Sequence[str]) -> list[str]:
        bodies = [
            {
                "model": model, "messages": [{"role": "user", "content": text}], "seed": seed,
                "temperature": 0, "max_tokens": max_tokens,
            }
            for text in requests
        ]  # fmt: skip
        return [_text(_answer(post, body, cache)) or "" for body in bodies]

    return write


def _text(answer: Mapping[str, Any] | None) -> str | None:
    """The text of a chat completion, None without one."""
    try:
        return str(answer["choices"][0]["message"]["content"] or "")  # type: ignore[index]
    except (KeyError, IndexError, TypeError):
        return None


def _body(model: str, text: str, seed: int) -> dict[str, Any]:
    return {
        "model": model, "messages": [{"role": "user", "content": text}], "seed": seed,
        "temperature": 0, "max_tokens": 4, "logprobs": True, "top_logprobs": 20,
    }  # fmt: skip


def _answer(
    post: Post, body: Mapping[str, Any], cache: MutableMapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """The answer's body, once for each request; None where there is none."""
    key = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    if cache is not None and key in cache:
        return dict(cache[key])
    try:
        answer = post(body)
    except Unanswered:
        return None
    if cache is not None:
        cache[key] = answer
    return answer


def verdict(answer: Mapping[str, Any] | None, options: tuple[str, str]) -> float:
    """The logit of the first option in a chat completion; NaN where it can't be read."""
    text, told = _read(answer, options)
    if np.isfinite(told).all():
        return float(told[0] - told[1])
    return {options[0]: SURE, options[1]: -SURE}.get(text or "", float("nan"))


def distribution(answer: Mapping[str, Any] | None, levels: Sequence[str]) -> np.ndarray:
    """[M]: the probabilities of levels in a chat completion; NaN where it can't be read.

    Those among the first token's alternatives, normalised; else the level that the answer is.
    """
    text, told = _read(answer, levels)
    if np.isfinite(told).any():
        return np.asarray(special.softmax(told))
    chosen = np.array([level == text for level in levels], np.float64)
    return chosen if chosen.any() else np.full(len(levels), np.nan)


def _read(
    answer: Mapping[str, Any] | None, options: Sequence[str]
) -> tuple[str | None, np.ndarray]:
    """(the answer in words, None without one; the options' log-probabilities, -inf if not told)."""
    text = _text(answer)
    if answer is None or text is None:
        return None, np.full(len(options), -np.inf)
    told = _logprobs(answer["choices"][0].get("logprobs"), options)
    return text.strip().rstrip(".").strip(), told


def _logprobs(found: Any, options: Sequence[str]) -> np.ndarray:
    """[M], of options among the first token's alternatives; -inf where one is not."""
    chances = dict.fromkeys(options, -np.inf)
    try:
        for told in found["content"][0]["top_logprobs"]:
            word = str(told["token"]).strip()
            if word in chances:  # with and without a blank it is the same option
                chances[word] = np.logaddexp(chances[word], float(told["logprob"]))
    except (KeyError, IndexError, TypeError, ValueError):
        return np.full(len(options), -np.inf)
    return np.array([chances[option] for option in options])
