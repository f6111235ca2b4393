"""The engine of slots: the draws of the reference, whatever shares the batch; nothing leaks."""

import functools
import random
import threading

import jax
import numpy as np
import pytest

from alignjax.sampling import generate, transforms
from alignjax.serving import engine as engines
from alignjax.serving import rows, served, slots
from alignjax.serving.requests import ERROR, Full, Options, Refusal, Request, UnknownModel
from alignjax.text import chat
from tests.serving import conftest as tools

PROMPTS = ((5, 6, 7), tuple(range(20, 41)), (270, 11, 280, 9, 33), (4,))
NEW, WIDTH = 20, 40


def told(engine, request):
    """{choice: (ids, log-probabilities, text, finish)} of a request, in turn."""
    found = {n: ([], [], "", "") for n in range(request.choices)}
    for event in engine.stream(request):
        if event.choice >= 0:
            ids, logprobs, text, _ = found[event.choice]
            ids += [own.token for own in event.scored]
            logprobs += [own.logprob for own in event.scored]
            found[event.choice] = (ids, logprobs, text + event.text, event.finish)
    return found


def together(engine, requests):
    """`told` of several requests at once."""
    found = [None] * len(requests)

    def ask(n):
        found[n] = told(engine, requests[n])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@functools.cache
def opened(path):
    """The model of a folder."""
    return served.load(str(path), template="chatml")


@functools.cache
def sampler(folder):
    """`make_generate`, compiled once for all models of this shape."""
    own = opened(folder / "model")
    config = transforms.SamplingConfig(max_new_tokens=NEW)
    return generate.make_generate(own.model, config, eos=own.ends, pad=own.pad)


def reference(path, prompt, choice=0, **options):
    """(ids, log-probabilities of the law drawn from) of `make_generate` on a model of its own."""
    options = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 0} | options
    padded = np.zeros((1, WIDTH), np.int32)
    padded[0, : len(prompt)] = prompt
    columns = {
        name: np.array([value], np.float32 if isinstance(value, float) else np.int32)
        for name, value in options.items()
    }
    samples = jax.device_get(
        sampler(path.parent)(
            opened(path).params,
            padded,
            np.array([len(prompt)], np.int32),
            jax.random.key(99),
            rows=np.array([choice], np.int32),
            options=transforms.RowOptions(**columns),
        )
    )
    at = slice(len(prompt), int(samples.lengths[0]))
    return samples.tokens[0, at].tolist(), samples.logprobs[0, at].tolist()


CASES = (
    ("model", {"temperature": 0.0}),
    ("wide", {"temperature": 0.0}),
    ("narrow", {"temperature": 1.0, "seed": 7}),
    ("model", {"temperature": 1.0, "seed": 7}),
    ("model", {"temperature": 0.7, "top_k": 5, "top_p": 0.8, "seed": 3}),
    ("wide", {"temperature": 1.3, "top_p": 0.6, "seed": 12}),
)


def test_a_request_is_drawn_as_the_reference_draws_it_alone_and_in_a_full_batch(idle, place):
    requests = [
        Request(prompt=PROMPTS[n % 4], model=name, options=Options(max_tokens=NEW, **options))
        for n, (name, options) in enumerate(CASES)
    ]
    alone = [told(idle, request)[0] for request in requests]
    with tools.Compiled() as compiled:
        mixed = [found[0] for found in together(idle, requests)]
    assert compiled.count == 0
    for (name, options), request, one, other in zip(CASES, requests, alone, mixed, strict=True):
        folder = place / (name if name == "model" else f"{name}-merged")
        ids, logprobs = reference(folder, request.prompt, **options)
        assert one[0] == other[0] == ids
        assert len(set(ids)) > 3
        np.testing.assert_allclose(one[1], other[1], atol=1e-5)
        if options["temperature"] == 1.0:  # the law that was drawn from is the model's own
            np.testing.assert_allclose(one[1], logprobs, atol=1e-5)


@pytest.mark.slow
def test_choices_are_rows_of_the_reference(idle, place):
    options = Options(max_tokens=NEW, seed=5)
    found = told(idle, Request(prompt=PROMPTS[1], choices=3, options=options))
    for choice in range(3):
        wanted, _ = reference(place / "model", PROMPTS[1], choice, seed=5)
        assert found[choice][0] == wanted
    assert found[0][0] != found[1][0]


@pytest.mark.slow
def test_prompts_in_pieces_and_at_the_end_of_the_context(place, monkeypatch):
    """A prompt longer than a piece is read as a whole one is; an answer ends with the context."""
    monkeypatch.setattr(slots, "LARGEST_PIECE", 16)
    own = served.load(str(place / "model"), template="chatml")
    engine = engines.Engine(own, slots.Limits(slots=2, context=48))
    prompt = tuple(range(30, 70))
    found = told(engine, Request(prompt=prompt, options=Options(max_tokens=99, temperature=0.0)))
    wanted, _ = reference(place / "model", prompt, temperature=0.0)
    assert found[0][0] == wanted[:8]
    assert found[0][3] == "length"
    scores = Options(max_tokens=0, echo=True, top=1)
    (event, last) = engine.stream(Request(prompt=prompt, options=scores))
    assert last.finish == "length"
    tokens = np.array([prompt], np.int32)
    positions, segments = np.arange(40)[None], np.ones_like(tokens)
    hidden, _ = own.model.hidden(own.params, tokens, positions=positions, segments=segments)
    logits = np.asarray(hidden @ own.model.unembedding(own.params))[0]
    logprobs = jax.nn.log_softmax(logits)[np.arange(39), prompt[1:]]
    assert event.scored[0].logprob is None
    np.testing.assert_allclose([s.logprob for s in event.scored[1:]], logprobs, atol=1e-5)
    best = [own.top[0][0] for own in event.scored[1:]]
    assert best == logits.argmax(-1)[:39].tolist()
    engine.close()
    assert not engine.is_alive


def test_text_comes_in_whole_characters_and_ends_before_a_stop(idle):
    options = Options(max_tokens=NEW, seed=1)
    ids, _, text, finish = told(idle, Request(prompt=PROMPTS[0], options=options))[0]
    speaker = idle.served.speaker
    assert text == chat.sampled_text(speaker, ids)
    assert finish in ("stop", "length")
    stop = text[len(text) // 2 :][:2]
    options = Options(max_tokens=NEW, seed=1, stop=("never", stop))
    fewer, _, cut, finish = told(idle, Request(prompt=PROMPTS[0], options=options))[0]
    assert finish == "stop"
    assert cut == text[: text.index(stop)]
    assert fewer == ids[: len(fewer)]
    assert stop in chat.sampled_text(speaker, fewer)
    assert stop not in chat.sampled_text(speaker, fewer[:-1])


def test_64_requests_with_random_aborts_leave_no_slot_and_compile_nothing(idle):
    rng, before = random.Random(0), idle.load().steps
    wanted = told(idle, Request(prompt=PROMPTS[2], options=Options(seed=2)))[0][0]
    outcomes = []

    def ask(n):
        options = Options(
            max_tokens=rng.randrange(1, 30), temperature=rng.choice((0.0, 1.0)),
            top_p=rng.choice((1.0, 0.5)), top=rng.choice((-1, 3)), seed=n,
        )  # fmt: skip
        model = rng.choice(("model", "wide", "narrow"))
        request = Request(
            prompt=PROMPTS[n % 4], options=options, model=model, choices=rng.randrange(1, 3)
        )
        leaves, seen = rng.choice((None, 0, 1, 5)), 0
        while True:
            try:
                stream = idle.stream(request)
                first = next(stream)
                break
            except Full:
                threading.Event().wait(0.02)
        assert first.choice == -1
        for event in stream:
            if seen == leaves:
                break
            seen += 1
            assert event.finish != ERROR
        stream.close()
        outcomes.append(seen)

    with tools.Compiled() as compiled:
        threads = [threading.Thread(target=ask, args=(n,)) for n in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(outcomes) == 64
    assert compiled.count == 0
    assert tools.wait_for(lambda: idle.load().busy == 0)
    assert idle.load().steps > before
    assert told(idle, Request(prompt=PROMPTS[2], options=Options(seed=2)))[0][0] == wanted


def test_a_cancelled_request_frees_its_slot_within_a_step(idle):
    seen, left = [], threading.Event()
    request = Request(prompt=(4,), options=Options(max_tokens=50, temperature=0.0))

    def put(event):
        seen.append((event, idle.load().steps))
        if len(seen) == 5:
            left.set()
            threading.Event().wait(0.2)  # the job is cancelled while this step is told

    job = idle.submit(request, put)
    left.wait(30)
    idle.cancel(job)
    assert tools.wait_for(lambda: idle.load().busy == 0)
    assert len(seen) == 5
    assert idle.load().steps <= seen[-1][1] + 1


def test_more_than_may_wait_are_refused_and_the_rest_is_served(idle):
    request = Request(prompt=(4, 5), options=Options(max_tokens=40, temperature=0.0))
    events = []
    with pytest.raises(Refusal, match="at most 10 of one request") as refused:
        idle.submit_all([request] * 11, [events.append] * 11)
    assert not isinstance(refused.value, Full)  # to ask again would never help
    jobs = idle.submit_all([request] * 10, [events.append] * 10)
    with pytest.raises(Full, match="at most 6 requests may wait"):
        idle.submit_all([request] * 10, [events.append] * 10)
    assert tools.wait_for(lambda: sum(bool(event.finish) for event in events) == 10)
    assert not any(job.gone for job in jobs)


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"prompt": ()}, Refusal, "at least one token; got none"),
        ({"prompt": (1,) * 64}, Refusal, "in a context of 64 tokens; got 64 tokens"),
        ({"prompt": (300,)}, Refusal, "ids from 0 to 299"),
        ({"choices": 5}, Refusal, "n must be from 1 to the server's 4 slots; got 5"),
        ({"model": "nobody"}, UnknownModel, "one of model, wide, narrow.*; got 'nobody'"),
        (
            {"options": Options(temperature=-1.0)},
            Refusal,
            "temperature must be finite and >= 0",
        ),
        (
            {"options": Options(top_p=0.0)},
            Refusal,
            "top_p must be finite and > 0",
        ),
        ({"options": Options(stop=("",))}, Refusal, "texts of 1 to 1000 characters"),
    ],
)
def test_what_cannot_be_served_is_refused(idle, fields, kind, message):
    with pytest.raises(kind, match=message):
        idle.submit(Request(**{"prompt": (1, 2), **fields}), print)


def test_a_request_that_takes_too_long_ends(idle, monkeypatch):
    monkeypatch.setattr(idle, "limits", idle.limits._replace(seconds=1e-9))
    *_, last = idle.stream(Request(prompt=(4,)))
    assert last.finish == ERROR
    assert "must end within" in last.text


def test_numbers_that_are_none_end_their_own_request_alone(idle):
    """Stale numbers of a slot pass every mask where they are NaN: they must not stay."""
    kept = idle._slots._params
    greedy = Options(max_tokens=16, temperature=0.0)
    wanted = told(idle, Request(prompt=(7, 8), options=greedy))[0]

    def poison(x):
        return x * np.float32(np.nan) if x.dtype == np.float32 else x

    def use(params):
        idle._slots._params = params

    bad = jax.tree.map(poison, kept)
    for begins_well in (False, True):
        stream = idle.stream(Request(prompt=PROMPTS[1], options=Options(max_tokens=40)))
        if begins_well:
            next(stream), next(stream)
        idle.between_steps(lambda: use(bad))
        *_, last = stream
        idle.between_steps(lambda: use(kept))
        assert (last.finish, last.text) == (ERROR, rows.UNSOUND)
        same = [told(idle, Request(prompt=(7, 8), options=greedy))[0] for _ in range(5)]
        assert same == [wanted] * 5


def test_a_program_that_fails_ends_what_it_was_at_and_no_more(running, monkeypatch):
    before = running.load().failures
    monkeypatch.setattr(running._slots, "step", lambda: 1 / 0)
    *_, last = running.stream(Request(prompt=(4, 5)))
    assert last.finish == ERROR
    assert "ZeroDivisionError" in last.text
    monkeypatch.undo()
    assert told(running, Request(prompt=(4, 5)))[0][3] in ("stop", "length")
    assert running.load().failures == before + 1
    running._failures = before
