"""Rows of text to fixed-shape NumPy tables, ready to be cut into batches.

Shapes: N rows, T = length, P = prompt_length. tokens int32, loss_mask bool (True where the token
is a target), segments int32 (0 = padding), positions int32. Masks come from roles and lengths,
never from token ids. Prompts lose their oldest turns, answers their ends; all of it is counted.
"""

import collections.abc
import dataclasses

import numpy as np

from alignjax.data import packing, sources
from alignjax.text import chat
from alignjax.text.tokenizers import interface

Table = dict[str, np.ndarray]
MIN_PROMPT = 4  # BOS, human marker, one token, assistant marker


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """Examples (conversations, pairs or prompts) read, kept, cut and dropped; and their tokens.

    `split` counts documents cut into several pieces, of which nothing is lost.
    """

    read: int
    kept: int
    truncated_prompts: int = 0
    truncated_answers: int = 0
    truncated: int = 0
    split: int = 0
    dropped_empty: int = 0
    dropped_identical: int = 0
    tokens: int = 0
    loss_tokens: int = 0

    def __str__(self) -> str:
        parts = [f"{field.name} {getattr(self, field.name)}" for field in dataclasses.fields(self)]
        share = self.truncated / max(self.read, 1)
        return f"{', '.join(parts)}, truncated share {share:.4f}"


def language_table(
    tokenizer: chat.Speaker,
    conversations: collections.abc.Iterable[collections.abc.Sequence[chat.Turn]],
    length: int,
    *,
    pack: bool = False,
    max_truncated_share: float = 0.25,
) -> tuple[Table, Counts]:
    """Returns (tokens, loss_mask, segments, positions: each [N, T]; Counts) for fine-tuning.

    A conversation above T tokens loses its end; one without an assistant token left is dropped.
    Args: length: T in tokens; pack: several conversations a row; max_truncated_share in [0, 1].
    Raises: ValueError when nothing is left or too large a share is truncated.
    """
    _check_length(length)
    documents, read, truncated, empty = [], 0, 0, 0
    for turns in conversations:
        ids, mask = chat.encode_chat(tokenizer, turns)
        read += 1
        truncated += len(ids) > length
        ids, mask = ids[:length], mask[:length]
        if any(mask):
            documents.append((ids, mask))
        else:
            empty += 1
    table = _language_rows(tokenizer, documents, length, pack)
    counts = _counts(
        table, read=read, kept=len(documents), truncated_answers=truncated, truncated=truncated,
        dropped_empty=empty,
    )  # fmt: skip
    return table, _checked(counts, max_truncated_share, "language_table")


def text_table(
    tokenizer: chat.Speaker,
    documents: collections.abc.Iterable[str | collections.abc.Sequence[chat.Turn]],
    length: int,
    *,
    pack: bool = True,
) -> tuple[Table, Counts]:
    """Returns (tokens, loss_mask, segments, positions: each [N, T]; Counts) for pretraining.

    A document is plain text (`<bos>` text `<eos>`) or a conversation in its chat layout; every
    token but the first of a segment is a target. A document above T tokens is cut into pieces
    of T, each a segment of its own: nothing is lost, but a piece of one token has no target and
    is dropped.
    Raises: ValueError when nothing is left.
    """
    _check_length(length)
    pieces, read, split, empty, kept = [], 0, 0, 0, 0
    for document in documents:
        if isinstance(document, str):
            begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
            after = interface.SPECIAL if begin else interface.NOTHING
            ids = [*begin, *tokenizer.encode(document, after), tokenizer.eos_id]
            is_empty = not document
        else:
            ids, _ = chat.encode_chat(tokenizer, document)
            is_empty = not any(turn.text for turn in document)
        read += 1
        if is_empty:
            empty += 1
            continue
        kept += 1
        split += len(ids) > length
        for start in range(0, len(ids), length):
            piece = ids[start : start + length]
            if len(piece) > 1:
                pieces.append((piece, [True] * len(piece)))
    table = _language_rows(tokenizer, pieces, length, pack)
    counts = _counts(table, read=read, kept=kept, split=split, dropped_empty=empty)
    return table, _checked(counts, 1.0, "text_table")


def pair_table(
    tokenizer: chat.Speaker,
    rows: collections.abc.Sequence[sources.Preference | chat.Pair],
    length: int,
    prompt_length: int,
    *,
    max_truncated_share: float = 0.25,
) -> tuple[Table, Counts]:
    """Returns (table, Counts) of preference pairs; index 0 of axis 1 is chosen, 1 rejected.

    Both sides begin with the same prompt of at most `prompt_length` tokens, cut as in
    `prompt_table`; continuations lose their ends beyond `length`. A pair with no target on a
    side, or with equal sides after truncation, is dropped and counted.

    Returns: tokens, loss_mask, segments, positions: [N, 2, T]; lengths [N, 2], prompt_lengths
      [N] in tokens; index [N]: the row's place in `rows`.
    Raises: ValueError when prompt_length >= length, nothing is left, or too much is truncated.
    """
    _check_prompt_length(prompt_length, length)
    documents, prompts, index, lost = [], [], [], dict.fromkeys(("empty", "identical"), 0)
    cut_prompts = cut_answers = cut_rows = 0
    for number, row in enumerate(rows):
        prompt, turns, prompt_cut = _prompt_ids(tokenizer, row.prompt, prompt_length)
        sides = [chat.continue_chat(tokenizer, turns, side) for side in (row.chosen, row.rejected)]
        room = length - len(prompt)
        answer_cut = any(len(ids) > room for ids, _ in sides)
        cut_prompts += prompt_cut
        cut_answers += answer_cut
        cut_rows += prompt_cut or answer_cut
        sides = [(ids[:room], mask[:room]) for ids, mask in sides]
        if not all(any(mask) for _, mask in sides):
            lost["empty"] += 1
        elif sides[0] == sides[1]:
            lost["identical"] += 1
        else:
            unmasked = [False] * len(prompt)
            documents += [(prompt + ids, unmasked + mask) for ids, mask in sides]
            prompts.append(len(prompt))
            index.append(number)
    flat = packing.lay_out(documents, length, pad_id=tokenizer.pad_id)
    table: Table = {name: array.reshape(-1, 2, length) for name, array in flat.items()}
    table["lengths"] = table["segments"].sum(axis=-1, dtype=np.int32)
    table["prompt_lengths"] = np.array(prompts, np.int32)
    table["index"] = np.array(index, np.int32)
    counts = _counts(
        table, read=len(rows), kept=len(index), truncated_prompts=cut_prompts,
        truncated_answers=cut_answers, truncated=cut_rows, dropped_empty=lost["empty"],
        dropped_identical=lost["identical"],
    )  # fmt: skip
    return table, _checked(counts, max_truncated_share, "pair_table")


def prompt_table(
    tokenizer: chat.Speaker,
    rows: collections.abc.Sequence[sources.Preference | chat.Pair],
    prompt_length: int,
    *,
    max_truncated_share: float = 0.25,
) -> tuple[Table, Counts]:
    """Returns (table, Counts) of prompts that end in the assistant's marker, padded right.

    A prompt above P tokens loses its oldest turns, never BOS, a leading system turn if that
    fits, or the last human turn; a last turn that is too long alone loses its beginning.

    Returns: prompts [N, P], lengths [N] in tokens, index [N]: the row's place in `rows`.
    Raises: ValueError for prompt_length below 4, no row, or too large a share truncated.
    """
    _check_prompt_length(prompt_length)
    tokens = np.full((len(rows), prompt_length), tokenizer.pad_id, np.int32)
    lengths, truncated = np.zeros(len(rows), np.int32), 0
    for number, row in enumerate(rows):
        ids, _, cut = _prompt_ids(tokenizer, row.prompt, prompt_length)
        tokens[number, : len(ids)] = ids
        lengths[number] = len(ids)
        truncated += cut
    table = {"prompts": tokens, "lengths": lengths, "index": np.arange(len(rows), dtype=np.int32)}
    counts = Counts(
        read=len(rows), kept=len(rows), truncated_prompts=truncated, truncated=truncated,
        tokens=int(lengths.sum()),
    )  # fmt: skip
    return table, _checked(counts, max_truncated_share, "prompt_table")


def answer_ids(
    tokenizer: chat.Speaker,
    prompt: collections.abc.Sequence[chat.Turn],
    answer: str,
    length: int,
    prompt_length: int,
    *,
    ended: bool,
) -> list[int]:
    """Returns the ids of a prompt, cut as in `prompt_table`, and an answer to it, at most `length`.

    Without `ended` the token that ends an answer is left out.
    """
    ids, turns, _ = _prompt_ids(tokenizer, prompt, prompt_length)
    more, mask = chat.continue_chat(tokenizer, turns, [chat.Turn(chat.ASSISTANT, answer)])
    if not ended and any(mask):
        more = more[: len(mask) - 1 - mask[::-1].index(True)]
    return [*ids, *more][:length]


def _language_rows(
    tokenizer: chat.Speaker,
    documents: collections.abc.Sequence[tuple[list[int], list[bool]]],
    length: int,
    pack: bool,
) -> Table:
    rows = packing.best_fit([len(ids) for ids, _ in documents], length) if pack else None
    return packing.lay_out(documents, length, pad_id=tokenizer.pad_id, rows=rows)


def _prompt_ids(
    tokenizer: chat.Speaker, turns: collections.abc.Sequence[chat.Turn], limit: int
) -> tuple[list[int], list[chat.Turn], bool]:
    """Returns (ids from the begin to the assistant's marker, turns in them, whether cut)."""
    ids, _ = chat.encode_chat(tokenizer, turns, generation_prompt=True)
    if len(ids) <= limit:
        return ids, list(turns), False
    system = [turn for turn in turns[:1] if turn.role == chat.SYSTEM]
    rest = list(turns[len(system) :])
    starts = [i for i, turn in enumerate(rest) if i and turn.role == chat.HUMAN]
    for kept in [*(system + rest[i:] for i in starts), *(rest[i:] for i in starts[-1:])]:
        shorter, _ = chat.encode_chat(tokenizer, kept, generation_prompt=True)
        if len(shorter) <= limit:
            return shorter, kept, True
    shorter, last = chat.cut_turn(tokenizer, rest[-1], limit)
    return shorter, [last], True


def _counts(table: Table, **counts: int) -> Counts:
    return Counts(
        tokens=int(np.count_nonzero(table["segments"])),
        loss_tokens=int(np.count_nonzero(table["loss_mask"])),
        **counts,
    )


def _checked(counts: Counts, max_truncated_share: float, where: str) -> Counts:
    if not counts.kept:
        raise ValueError(
            f"examples must be left after encoding; got none of {counts.read} ({where}). "
            "Raise length and prompt_length, or check the data."
        )
    if counts.truncated > max_truncated_share * counts.read:
        raise ValueError(
            f"truncated examples must be at most the share {max_truncated_share}; got "
            f"{counts.truncated} of {counts.read} ({where}). Raise length and prompt_length, or "
            "max_truncated_share."
        )
    return counts


def _check_length(length: int) -> None:
    if length < 2:
        raise ValueError(f"length must be at least 2 tokens; got {length} (examples). Raise it.")


def _check_prompt_length(prompt_length: int, length: int | None = None) -> None:
    if prompt_length < MIN_PROMPT:
        raise ValueError(
            f"prompt_length must be at least {MIN_PROMPT} tokens; got {prompt_length} (examples). "
            "Raise it."
        )
    if length is not None and prompt_length >= length:
        raise ValueError(
            f"prompt_length must be below length {length}, or no answer fits; got "
            f"{prompt_length} (pair_table). Lower prompt_length or raise length."
        )
