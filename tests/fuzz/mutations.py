"""Real small inputs, damaged: bytes flipped, cut and spliced; values of JSON replaced by others."""

import copy
import json
import struct

from hypothesis import strategies as st

NUMBERS = (0, -1, 1, 7, 2**31, 2**32 - 1, 2**63, 2**64, 10**39, 1e308, -1e-308, 0.5)
ODD = (
    None, True, False, "", " ", "x", "x" * 1000, "\x00", "\ud800", "\u202e", "nan", [], {}, [[]],
    [None], {"": {}}, {"a": [1]}, "[" * 2000, '{"a": ' * 200, *NUMBERS, *map(str, NUMBERS),
)  # fmt: skip

KINDS = ("odd", "odd", "odd", "remove", "wrap", "other", "deep", "add")


def _nested(levels: int, inner: object) -> object:
    for level in range(levels):
        inner = [inner] if level % 2 else {"a": inner}
    return inner


@st.composite
def changed_bytes(draw: st.DrawFn, source: bytes) -> bytes:
    """The source after one to four changes; most of them early, where headers are."""
    whole = bytearray(source)
    for _ in range(draw(st.integers(1, 4))):
        size = max(len(whole), 1)
        near = draw(st.booleans())
        at = draw(st.integers(0, min(size, 400) if near else size))
        kind = draw(st.sampled_from(("flip", "cut", "splice", "number", "fill", "repeat", "drop")))
        if kind == "flip" and at < len(whole):
            whole[at] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del whole[at:]
        elif kind == "splice":
            other = draw(st.integers(0, size))
            whole[at:at] = whole[other : other + draw(st.integers(1, 64))]
        elif kind == "number":
            number = draw(st.sampled_from((0, 1, 2**24, 2**31, 2**40, 2**63, 2**64 - 1)))
            whole[at : at + 8] = struct.pack("<Q", number)
        elif kind == "fill":
            whole[at : at + 16] = bytes([draw(st.sampled_from(b'\x00\xff[{"9\n'))]) * 16
        elif kind == "repeat":
            whole[at:at] = whole[at : at + 8] * draw(st.sampled_from((2, 100, 5000)))
        else:
            del whole[at : at + draw(st.integers(1, 64))]
    return bytes(whole[: 2**20])


def paths(value: object, before: tuple = ()) -> list[tuple]:
    """The place of every value inside one, the first of long lists alone."""
    found = [before] if before else []
    if isinstance(value, dict):
        entries = list(value.items())
    else:
        entries = list(enumerate(value)) if isinstance(value, list) else []
    for key, inner in entries[:40]:
        found += paths(inner, (*before, key))
    return found


@st.composite
def changed_values(draw: st.DrawFn, source: dict) -> dict:
    """The object after one to three values were replaced, removed, wrapped or taken elsewhere."""
    whole = copy.deepcopy(source)
    for _ in range(draw(st.integers(1, 3))):
        places = paths(whole)
        if not places:
            break
        path = draw(st.sampled_from(places))
        above = whole
        for key in path[:-1]:
            above = above[key]
        kind = draw(
            st.sampled_from(("odd", "odd", "odd", "remove", "wrap", "other", "deep", "add"))
        )
        if kind == "odd":
            above[path[-1]] = copy.deepcopy(draw(st.sampled_from(ODD)))
        elif kind == "remove":
            del above[path[-1]]
        elif kind == "wrap":
            above[path[-1]] = [above[path[-1]]]
        elif kind == "other":
            other = draw(st.sampled_from(places))
            taken = whole
            for key in other:
                taken = taken[key] if not isinstance(taken, dict) else taken.get(key)
                if not isinstance(taken, dict | list):
                    break
            above[path[-1]] = copy.deepcopy(taken)
        elif kind == "deep":
            above[path[-1]] = _nested(draw(st.sampled_from((3, 90, 300))), 1)
        elif isinstance(above, dict):
            above[draw(st.sampled_from(("", "x", "id", "auto_map", "type")))] = draw(
                st.sampled_from(ODD)
            )
    return whole


def encoded(value: object) -> bytes:
    """JSON in ASCII, in which lone surrogates stand as escapes."""
    return json.dumps(value).encode()
