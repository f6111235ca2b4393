"""OpenAI's interface on loopback: its own client, and everything that must be refused."""

import contextlib
import json
import socket
import threading

import pytest

from alignjax.serving import guarding, moderation
from alignjax.serving.requests import Options, Request
from alignjax.text import chat
from alignjax.text.tokenizers import interface
from tests.serving import conftest as tools
from tests.serving.test_engine import PROMPTS, told

openai = pytest.importorskip("openai", reason="needs OpenAI's client: alignjax[dev]")
ASK = [{"role": "user", "content": "what is the answer"}]
CHAT = {"model": "model", "messages": ASK, "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(
        base_url=f"{server.address}/v1", api_key="none", max_retries=0, timeout=60
    ) as own:
        yield own


# --- the official client ----------------------------------------------------------------------


def test_a_chat_is_what_the_engine_draws(client, running):
    speaker = running.served.speaker
    prompt, _ = chat.encode_chat(
        speaker, [chat.Turn("human", ASK[0]["content"])], generation_prompt=True
    )
    for name in ("model", "wide"):
        for options in ({"temperature": 0.0}, {"temperature": 1.0, "seed": 4, "top_p": 0.9}):
            own = Options(max_tokens=12, **options)
            request = Request(prompt=tuple(prompt), model=name, options=own, choices=2)
            wanted = told(running, request)
            found = client.chat.completions.create(
                model=name, messages=ASK, max_completion_tokens=12, n=2, **options
            )
            assert [own.message.content for own in found.choices] == [
                wanted[n][2] for n in range(2)
            ]
            assert [own.finish_reason for own in found.choices] == [wanted[n][3] for n in range(2)]
            assert found.usage.prompt_tokens == len(prompt)
            assert found.usage.completion_tokens == sum(len(own[0]) for own in wanted.values())
            assert found.model == name


def test_a_stream_is_the_answer_in_parts(client):
    whole = client.chat.completions.create(**CHAT, logprobs=True, top_logprobs=3, seed=1)
    parts = list(
        client.chat.completions.create(
            **CHAT, logprobs=True, top_logprobs=3, seed=1, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    assert parts[0].choices[0].delta.role == "assistant"
    *parts, last = parts
    assert last.usage == whole.usage
    assert last.choices == []
    content = [own.choices[0].delta.content or "" for own in parts]
    assert "".join(content) == whole.choices[0].message.content
    finish = [own.choices[0].finish_reason for own in parts]
    assert finish == [None] * (len(parts) - 1) + [whole.choices[0].finish_reason]
    scores = [own.choices[0].logprobs for own in parts]
    joined = [one for own in scores if own for one in own.content]
    assert joined == whole.choices[0].logprobs.content
    assert len(joined) == whole.usage.completion_tokens
    for own in joined:
        assert (
            own.logprob
            == own.top_logprobs[0].logprob
            == max(best.logprob for best in own.top_logprobs)
        )  # greedy
        assert bytes(own.bytes).decode(errors="replace") == own.token


def test_prompts_are_scored_as_harnesses_ask(client, running):
    """Echo with scores: of texts and of tokens, with one token drawn or none."""
    prompts = [list(PROMPTS[1]), list(PROMPTS[2])]
    ask = {"model": "model", "echo": True, "logprobs": 1, "temperature": 0, "seed": 1234}
    one = client.completions.create(prompt=prompts, max_tokens=1, **ask)
    none = client.completions.create(prompt=prompts, max_tokens=0, **ask)
    assert none.usage.completion_tokens == 0
    assert one.usage.completion_tokens == 2
    for prompt, first, second in zip(prompts, one.choices, none.choices, strict=True):
        options = Options(max_tokens=0, echo=True, top=1)
        event = next(iter(running.stream(Request(prompt=tuple(prompt), options=options))))
        wanted = [own.logprob for own in event.scored]
        assert second.logprobs.token_logprobs == wanted
        assert first.logprobs.token_logprobs[:-1] == wanted
        assert second.text == chat.sampled_text(running.served.speaker, prompt)
        tops = second.logprobs.top_logprobs
        assert tops[0] is None
        greedy = [own.token == own.top[0][0] for own in event.scored[1:]]
        pairs = list(zip(wanted[1:], tops[1:], strict=True))
        assert [own == max(top.values()) for own, top in pairs] == greedy
        assert len(second.logprobs.text_offset) == len(prompt)
    text = client.completions.create(prompt="the answer", max_tokens=0, **ask).choices[0]
    assert text.text == "the answer"
    assert "".join(text.logprobs.tokens) == "the answer"


def test_a_completion_goes_on_with_the_text(client):
    parts = client.completions.create(
        model="model", prompt="the answer", max_tokens=6, temperature=0, stream=True, echo=True
    )
    streamed = "".join(own.choices[0].text for own in parts)
    whole = client.completions.create(
        model="model", prompt="the answer", max_tokens=6, temperature=0
    )
    assert streamed == "the answer" + whole.choices[0].text


def test_models_are_listed_with_adapters(client):
    found = {own.id: getattr(own, "parent", None) for own in client.models.list()}
    assert found.items() >= {"model": None, "wide": "model", "narrow": "model"}.items()
    assert client.models.retrieve("wide").id == "wide"


def test_errors_are_those_of_the_client(client):
    with pytest.raises(openai.NotFoundError, match=r"one of model, wide, narrow.*got 'gpt-9'"):
        client.chat.completions.create(**{**CHAT, "model": "gpt-9"})
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")
    with pytest.raises(openai.BadRequestError, match="'min_p', 'dry_run'") as caught:
        client.chat.completions.create(**CHAT, extra_body={"min_p": 0.1, "dry_run": True})
    assert caught.value.param == "min_p"
    assert caught.value.type == "invalid_request_error"


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": []}, "messages must be a list of 1 to"),
        ({"messages": None}, "messages must be a list of 1 to"),
        ({"messages": [{"role": "judge", "content": "a"}]}, r"messages\[0\].role must be one of"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\].content must be a text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "of type text"),
        ({"messages": [{**ASK[0], "name": "ann"}]}, "role and content alone"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "type text"),
        ({"messages": [{"role": "user", "content": "x" * 17_000}]}, "got 17000 characters"),
        ({"messages": [{"role": "user", "content": "a\0"}]}, "Unicode without NUL"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "Unicode without NUL"),
        ({"messages": [{"role": "user", "content": "the " * 99}]}, "context of 64 tokens; got 1"),
        ({"stop": [str(n) for n in range(10**6 // 8)]}, "stop must be at most 16 texts"),
        ({"stop": ["a\ud800"]}, "stop must be Unicode"),
        ({"\ud800": 1}, "fields must be among"),
        ({"temperature": "warm"}, "temperature must be a number; got 'warm'"),
        ({"temperature": -1}, "temperature must be finite and >= 0"),
        ({"temperature": 10**400}, "a whole number must have at most 40 digits; got 401"),
        ({"top_p": 0}, "top_p must be finite and > 0"),
        ({"max_tokens": 0}, "max_tokens must be a whole number from 1"),
        ({"max_tokens": True}, "max_tokens must be a whole number from 1"),
        ({"n": 5}, "n must be from 1 to the server's 4 slots; got 5"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"top_logprobs": 2}, "top_logprobs must come with logprobs"),
        (
            {"logprobs": True, "top_logprobs": 21},
            "top_logprobs must be a whole number",
        ),
        ({"stream": "yes"}, "stream must be true or false"),
        ({"stream_options": {"include_usage": True}}, "stream_options must be an object"),
        ({"presence_penalty": 0.5}, "presence_penalty must be 0"),
        ({"response_format": {"type": "json_object"}}, "response_format must be"),
        ({"tools": [{"type": "function"}]}, r"tools must be \[\]"),
        ({"model": ""}, "model must be the name of a model"),
        ({"model": 3}, "model must be a text"),
    ],
)
def test_bad_chats_are_refused_in_one_line(server, fields, message):
    before = server.engine.load().steps
    status, answer, _ = server.call("/v1/chat/completions", {**CHAT, **fields})
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(answer["error"]["message"])
    assert "\n" not in answer["error"]["message"]
    assert len(answer["error"]["message"]) < 600
    assert server.engine.load().steps == before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": []}, "prompt must be a text"),
        ({"prompt": [[]]}, "prompt must be a text"),
        ({"prompt": [1, "a"]}, "prompt must be a text"),
        ({"prompt": [300]}, "ids from 0 to 299"),
        ({"prompt": [-1]}, "ids of the vocabulary"),
        ({"prompt": [1] * 65}, "context of 64 tokens; got 65"),
        ({"prompt": ["a"] * 129}, "at most 128"),
        ({"prompt": "a", "max_tokens": 0}, "at least 1 without echo"),
        ({"prompt": "a", "best_of": 2}, "best_of must equal n"),
        ({"prompt": "a", "suffix": "b"}, "suffix must be ''"),
        ({"prompt": "a", "messages": []}, "fields must be among .*; got 'messages'"),
    ],
)
def test_bad_completions_are_refused(server, fields, message):
    status, answer, _ = server.call("/v1/completions", {"model": "model", **fields})
    assert status == 400
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(answer["error"]["message"])


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (b"{", {}, 400, "JSON in UTF-8"),
        (b"[1]", {}, 400, "a JSON object"),
        (b'{"model": "\xff"}', {}, 400, "JSON in UTF-8"),
        (b'{"temperature": NaN}', {}, 400, "JSON in UTF-8"),
        (b"[" * 100_000, {}, 400, "JSON of at most 100 levels"),
        (b"[1]", {"content-type": "Application/JSON; charset=utf-8"}, 400, "a JSON object"),
        (b"{}", {"content-type": "text/plain"}, 415, "application/json"),
        (b'{"a": "' + b"x" * 8_000_000 + b'"}', {}, 413, "at most 8000000 bytes"),
    ],
)
def test_bad_bodies_are_refused(server, body, headers, status, message):
    found, answer, _ = server.call("/v1/completions", body, **headers)
    assert found == status
    assert message in answer["error"]["message"]


def test_a_full_queue_is_told_with_when_to_ask_again(server, running):
    held = Request(prompt=(4,), options=Options(max_tokens=60, temperature=0.0))
    blocked = threading.Event()
    jobs = running.submit_all([held] * 10, [lambda event: blocked.wait(30)] * 10)
    try:
        status, answer, headers = server.call("/v1/completions", {"model": "model", "prompt": "a"})
    finally:
        for job in jobs:
            running.cancel(job)
        blocked.set()
    assert status == 429
    assert int(headers["retry-after"]) >= 1
    assert answer["error"]["code"] == "queue_full"
    server.complete(prompt="a", max_tokens=2)  # those that left do not count


def test_paths_and_methods_that_are_none(server):
    for path, sent, status in (
        ("/v1/nothing", None, 404), ("/v1/completions", None, 405), ("/v1/models", {}, 405),
    ):  # fmt: skip
        found, answer, _ = server.call(path, sent)
        assert found == status
        assert answer["error"]["code"] == "unknown_url"
        assert "/v1/chat/completions" in answer["error"]["message"]


def test_other_names_of_the_host_are_refused(server):
    with pytest.raises(json.JSONDecodeError):  # of a page that a browser was led to
        server.call("/v1/models", host="evil.example")


def test_tokens_are_asked_for_where_there_are_some(running):
    with tools.serving(running, tokens=frozenset({"0123456789abcdef"})) as own:
        assert own.call("/health")[0] == 200
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic x"}):
            status, answer, _ = own.call("/v1/models", **headers)
            assert status == 401
            assert answer["error"]["code"] == "invalid_api_key"
        known = {"authorization": "Bearer 0123456789abcdef"}
        assert own.call("/v1/models", **known)[0] == 200
        assert own.call("/v1/adapters", {"name": "late", "path": "x"})[0] == 401


def test_health_and_metrics_count_what_was_done(server):
    status, health, _ = server.call("/health")
    assert status == 200
    assert health.items() >= {"status": "ok", "slots": 4, "failures": 0}.items()
    before = _numbers(server)
    server.complete(prompt=[5, 6, 7], max_tokens=3, temperature=0)
    server.call("/v1/completions", {"model": "model"})
    after = _numbers(server)
    added = {name: value - before.get(name, 0) for name, value in after.items()}
    assert added["alignjax_prompt_tokens_total"] == 3
    assert added["alignjax_answer_tokens_total"] == added["alignjax_drawn_tokens_total"] == 3
    assert added['alignjax_requests_total{path="/v1/completions",status="200"}'] == 1
    assert added['alignjax_requests_total{path="/v1/completions",status="400"}'] == 1
    assert added["alignjax_first_token_seconds_count"] == 1


def _numbers(server):
    import urllib.request

    with urllib.request.urlopen(f"{server.address}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


# --- clients that leave -----------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(server, running, stream):
    body = json.dumps(
        {"model": "model", "prompt": "a", "max_tokens": 60, "temperature": 0, "stream": stream}
    ).encode()
    host, port = server.address.removeprefix("http://").split(":")
    slow = threading.Event()
    kept, running._slots.step = running._slots.step, _slowed(running._slots.step, slow)
    try:
        with contextlib.closing(socket.create_connection((host, int(port)))) as own:
            head = (
                f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json"
                f"\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            own.sendall(head.encode() + body)
            if stream:
                assert own.recv(1)
            assert tools.wait_for(lambda: running.load().busy == 1)
        before = running.load().tokens
        assert tools.wait_for(lambda: running.load().busy == 0, 5)
        assert running.load().tokens - before < 30  # of 60: it did not run to its end
    finally:
        slow.set()
        del running._slots.step
        assert kept


def _slowed(step, never):
    def run():
        never.wait(0.05)
        step()

    return run


# --- guards -----------------------------------------------------------------------------------


class Rule:
    """Blocks questions with a word, and answers from some length on; notes what it was shown."""

    def __init__(self, longest=10**9, fails=False):
        self.longest, self.fails, self.seen, self.ended = longest, fails, [], []

    def before(self, turns):
        return guarding.Verdict("forbidden" in turns[-1].text, {"words": 0.5})

    def window(self, turns, text_so_far):
        self.seen.append(text_so_far)
        if self.fails:
            raise RuntimeError("no guard today")
        return guarding.Verdict(len(text_so_far) > self.longest, {"length": 1.0})

    def answered(self, turns, text, verdict):
        self.ended.append(text)


@contextlib.contextmanager
def guarded(running, guard, **options):
    incidents = []
    moderator = moderation.Moderation(
        guard=guard, window=4, report=incidents.append, refusal="No.", **options
    )
    with tools.serving(running, moderator) as own:
        client = openai.OpenAI(base_url=f"{own.address}/v1", api_key="x", max_retries=0)
        yield client, incidents
        client.close()


def test_a_blocked_question_is_not_answered(running):
    with guarded(running, Rule()) as (client, incidents):
        before = running.load().tokens
        found = client.chat.completions.create(
            model="model", messages=[{"role": "user", "content": "a forbidden thing"}]
        )
        assert found.choices[0].message.content == "No."
        assert found.choices[0].finish_reason == "content_filter"
        assert found.usage.completion_tokens == 0
        assert running.load().tokens == before
        assert [(own.where, own.model) for own in incidents] == [("before", "model")]


def test_nothing_of_a_blocked_window_is_sent(running):
    ask = {**CHAT, "max_tokens": 24}
    rule = Rule()
    with guarded(running, rule) as (client, incidents):
        whole = client.chat.completions.create(**ask).choices[0].message.content
        assert not incidents
        assert rule.ended == [whole]
    rule = Rule(longest=len(whole) // 2)
    with guarded(running, rule) as (client, incidents):
        parts = list(client.chat.completions.create(**ask, stream=True, logprobs=True))
        sent = "".join(own.choices[0].delta.content or "" for own in parts)
        *passed, flagged = rule.seen
        assert len(rule.seen) > 1
        assert sent == passed[-1] + "No."
        assert len(flagged) > rule.longest >= len(passed[-1])
        assert parts[-1].choices[0].finish_reason == "content_filter"
        assert parts[-1].choices[0].logprobs is None
        assert incidents[0].text == flagged
        assert not rule.ended
        assert all(whole.startswith(own) for own in rule.seen)
        found = client.chat.completions.create(**ask).choices[0]
        assert found.message.content == "No."
    assert tools.wait_for(lambda: running.load().busy == 0)


def test_a_guard_that_fails_blocks_unless_it_is_let(running):
    with guarded(running, Rule(fails=True)) as (client, incidents):
        found = client.chat.completions.create(**CHAT).choices[0]
        assert (found.message.content, found.finish_reason) == ("No.", "content_filter")
        assert "no guard today" in incidents[0].verdict.error
    with guarded(running, Rule(fails=True), on_error="allow") as (client, incidents):
        found = client.chat.completions.create(**CHAT).choices[0]
        assert found.finish_reason != "content_filter"
        assert incidents
    with pytest.raises(ValueError, match="on_guard_error must be one of block, allow"):
        moderation.Moderation(on_error="ignore").validate()


# --- the tokenizer's routes -------------------------------------------------------------------


def test_the_tokenizer_answers_as_the_model_reads(server, running):
    speaker = running.served.speaker
    text = "the answer <|im_end|> is"
    for special, bos in ((True, None), (False, False)):
        sent = {"prompt": text, "add_special_tokens": special}
        status, found, _ = server.call("/tokenize", sent)
        wanted = interface.document_start(speaker, text, bos)
        assert (status, found["tokens"], found["count"]) == (200, wanted, len(wanted))
    end = speaker.special["<|im_end|>"]
    assert end not in found["tokens"]  # within a text a control token's name is text
    assert server.call("/tokenize", {"prompt": "<|im_end|>"})[1]["tokens"] == [end]
    back = server.call("/detokenize", {"tokens": [*found["tokens"], end]})[1]
    assert back == {"prompt": text}
    status, info, _ = server.call("/tokenizer_info")
    assert status == 200
    for name in ("bos_token", "eos_token", "pad_token"):
        number = getattr(speaker.tokenizer, name.replace("token", "id"))
        assert info[name] == next((n for n, i in speaker.special.items() if i == number), None)


@pytest.mark.parametrize(
    ("path", "sent", "named"),
    [
        ("/tokenize", {"prompt": 3}, "prompt must be a text"),
        ("/tokenize", {"prompt": "a", "add_special_tokens": "no"}, "true or false"),
        ("/tokenize", {"prompt": "a\0"}, "without NUL"),
        ("/tokenize", {"text": "a"}, "text"),
        ("/detokenize", {"tokens": [10**9]}, "ids below"),
        ("/detokenize", {"tokens": "a"}, "ids below"),
    ],
)
def test_what_the_tokenizer_cannot_read_is_refused(server, path, sent, named):
    status, found, _ = server.call(path, sent)
    assert status == 400
    assert named in found["error"]["message"]
