"""The report of `alignjax check-data`: every check of the reader, and statistics of the data.

No model is needed. With a tokenizer, lengths and truncation are in its tokens; without one they
are estimated from UTF-8 bytes and marked as estimates.
"""

import collections
import collections.abc
import math
import os

import numpy as np

from alignjax.data import examples, sources
from alignjax.text import chat
from alignjax.text import tokenizer as tokenizer_lib

BYTES_PER_TOKEN = 4.0  # of English text under a vocabulary of 8k to 32k pieces, roughly
PERCENTILES = (0, 10, 50, 90, 99, 100)


def check_data(
    path: str | os.PathLike[str],
    *,
    tokenizer: tokenizer_lib.Tokenizer | None = None,
    length: int = 512,
    prompt_length: int = 256,
    split: str = "all",
    names: str = "*",
    on_bad_row: str = "error",
    max_bad_share: float = 0.01,
    max_unusable_share: float = 0.02,
    max_truncated_share: float = 1.0,
) -> list[str]:
    """Returns the report's lines: counts, length percentiles, duplicates, share truncated.

    Args: as in `sources.read_preferences` and `examples.pair_table`.
    Raises: sources.DataError or ValueError in one line for anything that training would refuse.
    """
    data = sources.read_preferences(
        path, split=split, names=names, on_bad_row=on_bad_row, max_bad_share=max_bad_share,
        max_unusable_share=max_unusable_share,
    )  # fmt: skip
    files = collections.Counter(row.file for row in data.rows)
    prompts = collections.Counter(row.prompt for row in data.rows)
    repeated = sum(count - 1 for count in prompts.values())
    turns = collections.Counter(len(row.prompt) for row in data.rows)
    unit = "tokens" if tokenizer else f"tokens, estimated at {BYTES_PER_TOKEN:g} bytes each"
    prompt, chosen, rejected = _lengths(data.rows, tokenizer)
    lines = [
        f"data: {path}, split {split}, sha256 {data.fingerprint}",
        f"rows: {data.summary()}",
        *(f"file: {name}: {count} usable rows" for name, count in sorted(files.items())),
        f"duplicates: {data.dropped.get(sources.DUPLICATE, 0)} rows, {repeated} repeated prompts",
        "prompt turns: " + ", ".join(f"{n}: {count}" for n, count in sorted(turns.items())),
        f"lengths in {unit}:",
        _percentiles("prompt", prompt),
        _percentiles("chosen", chosen),
        _percentiles("rejected", rejected),
    ]
    if tokenizer is not None:
        _, counts = examples.pair_table(
            tokenizer, data.rows, length, prompt_length, max_truncated_share=max_truncated_share
        )
        return [*lines, f"pairs at length {length}, prompt {prompt_length}: {counts}"]
    kept = np.minimum(prompt, prompt_length)
    over = (prompt > prompt_length) | (kept + np.maximum(chosen, rejected) > length)
    return [
        *lines,
        f"pairs at length {length}, prompt {prompt_length}: truncated share {over.mean():.4f}, "
        "estimated from bytes",
    ]


def _lengths(
    rows: collections.abc.Sequence[sources.Preference], tokenizer: tokenizer_lib.Tokenizer | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the lengths of prompts and of both continuations in tokens, each int64 [N]."""

    def size(turns: tuple[chat.Turn, ...]) -> int:
        if tokenizer is not None:
            return len(chat.encode_chat(tokenizer, turns)[0])
        text = sum(len(turn.text.encode("utf-8")) for turn in turns)
        return math.ceil(text / BYTES_PER_TOKEN) + len(turns) + 1

    sides = [[getattr(row, name) for row in rows] for name in ("prompt", "chosen", "rejected")]
    prompt, chosen, rejected = (
        np.array([size(turns) for turns in side], np.int64) for side in sides
    )
    # A prompt ends in the assistant's marker; a continuation begins after it, without BOS.
    return prompt + 1, chosen - 2, rejected - 2


def _percentiles(name: str, lengths: np.ndarray) -> str:
    values = np.percentile(lengths, PERCENTILES, method="inverted_cdf")
    shown = ", ".join(f"p{q} {int(value)}" for q, value in zip(PERCENTILES, values, strict=True))
    return f"  {name}: {shown}, mean {lengths.mean():.1f}"
