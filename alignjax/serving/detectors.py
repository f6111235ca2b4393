"""Detectors: what gives conversations a probability of each category, and never a verdict.

A trained classifier, a language model that is asked yes or no, or a rule. NaN is what could not be
told: too long a text, an answer that was no option. It is no probability, and never "safe".
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from alignjax.core import shapes
from alignjax.models import model as models
from alignjax.parallel import axes, hosts
from alignjax.parallel import mesh as meshes
from alignjax.rewards import judge, learned
from alignjax.text import chat

Turns = Sequence[chat.Turn]
QUESTION = (
    "A conversation.\n\n{prompt}\n\nQuestion: {question} Say yes or no.\n\nThe answer to the "
    "question is "
)
SHORTEST = 16  # tokens of the smallest program


class Detector(NamedTuple):
    """A way to tell categories.

    probabilities: conversations -> [N, C] in [0, 1], NaN where it could not be told; from several
    threads at once. fingerprint: a hash of all on which they depend. name: for people.
    """

    name: str
    categories: tuple[str, ...]
    probabilities: Callable[[Sequence[Turns]], np.ndarray]
    fingerprint: str


class Words(NamedTuple):
    """words: whole words or phrases, in any case. patterns: regular expressions."""

    words: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()


def folded(text: str) -> str:
    """The text as rules compare it: compatible forms alike, no case, no invisible characters."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in plain if unicodedata.category(c) != "Cf")


def rule(name: str, listed: Mapping[str, Words], fingerprint: str = "") -> Detector:
    """A detector of words: 1 where a turn holds one, else 0.

    A word stands between characters that are no letters or digits: "class" is not in "classic".
    Languages without spaces between words need patterns. A phrase is sought in one turn alone.

    Raises:
      ValueError: no category, one without words, or a pattern that is no regular expression.
    """
    if not listed or not all(own.words or own.patterns for own in listed.values()):
        raise ValueError(
            f"a rule must have words or patterns for each category; got none ({name})."
        )
    compiled = {category: _compiled(category, own) for category, own in listed.items()}

    def probabilities(conversations: Sequence[Turns]) -> np.ndarray:
        found = np.zeros((len(conversations), len(compiled)))
        for row, turns in enumerate(conversations):
            texts = [folded(turn.text) for turn in turns]
            for place, pattern in enumerate(compiled.values()):
                found[row, place] = any(pattern.search(text) for text in texts)
        return found

    return Detector(name, tuple(listed), probabilities, fingerprint or repr(sorted(listed.items())))


def _compiled(category: str, own: Words) -> re.Pattern[str]:
    parts = [rf"(?<!\w){re.escape(folded(word))}(?!\w)" for word in own.words]
    for pattern in own.patterns:
        try:
            parts.append(f"(?:{re.compile(pattern).pattern})")
        except re.error as error:
            raise ValueError(
                f"a pattern must be a regular expression; got {pattern!r:.60} ({category}: "
                f"{error})."
            ) from None
    return re.compile("|".join(parts), re.IGNORECASE)


def asked(
    name: str, ask: judge.Ask, questions: Mapping[str, str], fingerprint: str = ""
) -> Detector:
    """A language model that answers a question a category: the probability of yes among yes and no.

    ask: (conversations as text, answers that are not read, question) -> [N] logits of yes.
    Reference: Inan et al. (2023, Llama Guard), arXiv 2312.06674, section 3.
    """

    def probabilities(conversations: Sequence[Turns]) -> np.ndarray:
        texts = [as_text(turns) for turns in conversations]
        blank = [""] * len(texts)
        logits = [ask(texts, blank, question) for question in questions.values()]
        return np.asarray(special.expit(np.stack(logits, axis=1)))

    return Detector(name, tuple(questions), probabilities, fingerprint)


def as_text(turns: Turns) -> str:
    """A conversation as lines of text, each turn after who speaks."""
    names = {chat.HUMAN: "User", chat.ASSISTANT: "Assistant", chat.SYSTEM: "System"}
    return "\n".join(f"{names.get(turn.role, turn.role)}: {turn.text}" for turn in turns)


def pieces(ids: Sequence[int], length: int) -> list[list[int]]:
    """Ids in pieces of at most `length` that overlap by half, the last `length` ids among them."""
    if len(ids) <= length:
        return [list(ids)]
    step = max(length // 2, 1)
    starts = [*range(0, len(ids) - length, step), len(ids) - length]
    return [list(ids[start : start + length]) for start in starts]


def classifier(
    name: str,
    model: models.Model,
    params: Any,
    speaker: chat.Speaker,
    categories: tuple[str, ...],
    *,
    length: int,
    rows: int = 8,
    mesh: Any = None,
    fingerprint: str = "",
) -> Detector:
    """A trained guard: the sigmoid of its head; of a long text the most of any of its pieces.

    Args:
      params: bound, with a head [D, C]. length: tokens that it reads at once. rows: most pieces of
      a program; shapes are powers of two, so that few programs are compiled. mesh: of the params.
    """
    shapes.check_number("rows of a guard", rows, minimum=1)
    score = learned.make_score(model)

    def probabilities(conversations: Sequence[Turns]) -> np.ndarray:
        owner, parts = list[int](), list[list[int]]()
        for row, turns in enumerate(conversations):
            ids, _ = chat.encode_chat(speaker, turns)
            own = pieces(ids, length)
            parts += own
            owner += [row] * len(own)
        found = np.full((len(conversations), len(categories)), -np.inf)
        with meshes.use(mesh):
            for start in range(0, len(parts), rows):
                batch = _batch(parts[start : start + rows], length, speaker.pad_id)
                logits = hosts.to_host(score(params, hosts.to_global(batch)))
                size = len(parts[start : start + rows])
                np.maximum.at(found, owner[start : start + rows], logits[:size].astype(float))
        return np.asarray(special.expit(found))

    return Detector(name, categories, probabilities, fingerprint)


def _batch(parts: Sequence[list[int]], length: int, pad: int) -> dict[str, np.ndarray]:
    """Rows of pieces; the sizes of the batch are powers of two, and what the mesh divides."""
    shards = axes.axis_size("batch")
    count = 1 << (len(parts) - 1).bit_length()
    count = -(-count // shards) * shards
    longest = max(map(len, parts))
    width = min(max(1 << (longest - 1).bit_length(), SHORTEST), length)
    tokens, sizes = np.full((count, width), pad, np.int32), np.zeros(count, np.int32)
    for row, ids in enumerate(parts):
        tokens[row, : len(ids)], sizes[row] = ids, len(ids)
    slot = np.broadcast_to(np.arange(width, dtype=np.int32), tokens.shape)
    real = slot < sizes[:, None]
    return {
        "tokens": tokens,
        "loss_mask": real,
        "segments": real.astype(np.int32),
        "positions": np.where(real, slot, 0).astype(np.int32),
    }
