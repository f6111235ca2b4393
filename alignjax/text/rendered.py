"""Rendered conversations to ids: what all kinds of template end in."""

import collections.abc
import functools
import re

from alignjax.text.template_tools import Piece
from alignjax.text.tokenizers import interface

Atom = tuple[str | int, bool]  # a text or a control token's id, and whether it is trained


def encode_pieces(
    tokenizer: interface.TextTokenizer,
    pieces: collections.abc.Iterable[Piece],
    *,
    own_spaces: bool = False,
) -> tuple[list[int], list[bool]]:
    """Returns (ids, mask) of rendered pieces; adjoining texts of one kind are tokenized as one."""
    return encode_atoms(tokenizer, atoms_of(tokenizer.special, pieces), own_spaces=own_spaces)


def atoms_of(
    special_ids: collections.abc.Mapping[str, int], pieces: collections.abc.Iterable[Piece]
) -> list[Atom]:
    """The texts and ids of control tokens that pieces hold, adjoining texts of one kind joined."""
    parted = _parter(tuple(special_ids))
    atoms: list[list] = []
    for piece in pieces:
        for part in parted(piece.text) if piece.layout else (piece.text,):
            if piece.layout and part in special_ids:
                atoms.append([special_ids[part], piece.trained])
            elif part and atoms and isinstance(atoms[-1][0], str) and atoms[-1][1] == piece.trained:
                atoms[-1][0] += part
            elif part:
                atoms.append([part, piece.trained])
    return [(content, trained) for content, trained in atoms]


def encode_atoms(
    tokenizer: interface.TextTokenizer,
    atoms: collections.abc.Iterable[Atom],
    *,
    own_spaces: bool,
) -> tuple[list[int], list[bool]]:
    """Returns (ids, mask); own_spaces: as of a template."""
    ids: list[int] = []
    mask: list[bool] = []
    special = interface.TEXT if own_spaces else interface.SPECIAL
    after = interface.NOTHING
    for content, trained in atoms:
        if isinstance(content, str):
            tokens, after = tokenizer.encode(content, after), interface.TEXT
        else:
            tokens, after = [content], special
        ids += tokens
        mask += [trained] * len(tokens)
    return ids, mask


@functools.lru_cache(maxsize=64)
def _parter(names: tuple[str, ...]) -> collections.abc.Callable[[str], tuple[str, ...]]:
    """What parts a string of layout at the names of control tokens, the longest name first."""
    longest = sorted(names, key=len, reverse=True)
    pattern = re.compile("(" + "|".join(map(re.escape, longest)) + ")" if names else r"((?!))")
    return functools.lru_cache(maxsize=1024)(lambda text: tuple(pattern.split(text)))
