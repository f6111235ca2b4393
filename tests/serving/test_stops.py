"""Text that waits: for whole characters, and for what may end it."""

import random

import pytest

from alignjax.serving import stops
from alignjax.text import chat, pieces


@pytest.mark.parametrize(
    ("parts", "stop", "out", "left"),
    [
        (["abc", "def"], (), ["abc", "def"], ""),
        (["abEN", "Dxy"], ("END",), ["ab", ""], None),
        (["abEN", "Exy"], ("END",), ["ab", "ENExy"], ""),
        (["a\n", "\nb"], ("\n\n",), ["a", ""], None),
        (["aab"], ("aab", "a"), [""], None),  # what is complete first, not first in the list
        (["xaa", "aab"], ("aaab",), ["x", "a"], None),
        (["EN"], ("END",), [""], "EN"),
    ],
)
def test_text_waits_while_it_may_be_a_stop(parts, stop, out, left):
    own = stops.Stops(stop)
    found = [own.add(part) for part in parts]
    assert [text for text, _ in found] == out
    assert found[-1][1] == (left is None)
    if left is not None:
        assert own.end() == left


def test_any_cut_of_any_text_gives_the_same():
    rng = random.Random(0)
    for _ in range(500):
        text = "".join(rng.choice("ab") for _ in range(rng.randrange(30)))
        stop = tuple("".join(rng.choice("ab") for _ in range(rng.randrange(1, 5))) for _ in "12")
        own, out, done = stops.Stops(stop), "", False
        at = 0
        while at < len(text) and not done:
            size = rng.randrange(1, 5)
            more, done = own.add(text[at : at + size])
            out, at = out + more, at + size
        out += "" if done else own.end()
        ends = [(text.find(one) + len(one), text.find(one)) for one in stop if one in text]
        assert done == bool(ends)
        assert out == (text[: min(ends)[1]] if ends else text)


class Spaced:
    """Tokens of single bytes, the vocabulary of which puts a space before a document."""

    vocab_size, starts_with_space = 256, True

    def token_bytes(self, token):
        return bytes([token])

    def decode(self, ids):
        return bytes(ids).removeprefix(b" ").decode("utf-8", errors="replace")


def test_pieces_join_to_the_text_of_all_tokens():
    rng = random.Random(1)
    texts = [" é你\U0001f469 a", "  two", "", "\ufffd ok", "plain"]
    rows = [list(text.encode()) for text in texts]
    rows += [[rng.randrange(256) for _ in range(12)] for _ in range(200)]
    rows += [[*"é".encode(), 300, 0xE2, 300]]  # an id that the tokenizer lacks
    for row in rows:
        own = pieces.Pieces(Spaced())
        parts = [own.add(token) for token in row]
        joined = "".join(parts) + own.end()
        if max(row, default=0) < 256:
            assert joined == chat.sampled_text(Spaced(), row)
        else:
            assert joined == "é\ufffd\ufffd\ufffd"
    within = pieces.Pieces(Spaced(), within=True)
    assert within.add(32) == " "
