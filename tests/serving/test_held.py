"""No token of a flagged window goes out, in 10,000 planted streams; text is judged as it reads."""

import numpy as np
import pytest

from alignjax.serving import (
    detectors,
    guarding,
    guards,
    held,
    moderation,
    requests,
    thresholds,
)
from alignjax.text import chat

WORDS = ("assisting", "classic", "river", "ok", "b😀d", "über", "bad", "two words", "badly")
RULE = detectors.rule("words", {"a": detectors.Words(("bad", "two words", "b😀d", "ass"))})
ASKED = [chat.Turn(chat.HUMAN, "x")]


def guard_of(detector):
    one = thresholds.Threshold(0.5, 100, 96, 0.05)
    return guards.Guard(detector, thresholds.Thresholds(detector.fingerprint, {"*": {"a": one}}))


def stream(rng):
    """(an answer cut into pieces of 1 to 4 characters, some of them empty; the window)."""
    chosen = rng.choice(len(WORDS), rng.integers(1, 12), p=[0.2, 0.2, 0.2, 0.2, 0.02, 0.1, 0.02,
                                                           0.02, 0.04])  # fmt: skip
    text, pieces = " ".join(WORDS[i] for i in chosen), []
    while text:
        size = int(rng.integers(0, 5))
        pieces.append(text[:size])
        text = text[size:]
    return pieces, int(rng.integers(1, 9))


def sent(pieces, guard, window):
    """(the text that went out, the incident or None), as the server sends an answer's events."""
    incidents, out = [], []
    moderator = moderation.Moderation(guard=guard, window=window, report=incidents.append)
    own = held.Held(window)
    for number, piece in enumerate(pieces, 1):
        own.add((requests.Scored(number, 0.0),), piece)
        ends = number == len(pieces)
        if own.is_held(ends):
            continue
        assert own.is_due(ends)
        if moderator.answer(ASKED, own.whole, ends, "model").blocked:
            own.dropped()
            break
        passed = own.passed()
        assert len(passed.scored) <= window
        out.append(passed.text)
    assert own.passed() == ((), "")
    return "".join(out), incidents[0] if incidents else None


def allowed(pieces, window):
    """By hand: the text before the first window whose end completes a listed word."""
    ends = [*range(window, len(pieces), window), len(pieces)]
    before = 0
    for end in ends:
        padded = f" {detectors.folded(''.join(pieces[:end]))} "
        if any(f" {word} " in padded for word in ("bad", "two words", "b😀d", "ass")):
            return "".join(pieces[:before]), True
        before = end
    return "".join(pieces), False


def test_no_token_of_a_flagged_window_is_sent_in_ten_thousand_streams():
    rng, guard, flagged = np.random.default_rng(0), guard_of(RULE), 0
    for _ in range(10_000):
        pieces, window = stream(rng)
        text, blocked = sent(pieces, guard, window)
        expected, is_flagged = allowed(pieces, window)
        assert text == expected
        assert (blocked is not None) == is_flagged
        flagged += is_flagged
    assert 2000 < flagged < 8000


def test_pieces_are_never_judged_with_spaces_between():
    guard = guard_of(RULE)
    text, blocked = sent(["I am ass", "isting you"], guard, 2)
    assert (text, blocked) == ("I am assisting you", None)
    text, blocked = sent(["b", "ad"], guard, 2)
    assert text == ""
    assert blocked.text == "bad"


def test_a_guard_that_fails_lets_nothing_more_out():
    class Broken:
        calls = 0

        def window(self, turns, text):
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError("gone")
            return guarding.Verdict(False)

        def answered(self, turns, text, verdict):
            raise AssertionError

    text, blocked = sent(["a", "b", "c", "d"], Broken(), 2)
    assert text == "ab"
    assert blocked.verdict.error == "RuntimeError: gone"

    class Unsure:
        def window(self, turns, text):
            return guarding.Verdict(False, {}, "no device")

    assert sent(["a"], Unsure(), 2)[0] == ""
    with pytest.raises(ValueError, match="window"):
        held.Held(-1)


def test_without_a_guard_nothing_is_held_back():
    own = held.Held(0)
    own.add((requests.Scored(1, 0.0),), "a")
    assert not own.is_due(True)
    assert not own.is_held(False)
    assert own.passed().text == "a"
