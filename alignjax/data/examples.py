"""Rows of text to fixed-shape NumPy tables, ready to be cut into batches.

Shapes: N rows, T = length, P = prompt_length. tokens int32, loss_mask bool (True where the token
is a target), segments int32 (0 = padding), positions int32; see `encoding` and `padding`.
"""

import collections.abc

from alignjax.data import encoding, example, padding, rows, sources, tables
from alignjax.text import chat

Table = tables.Table
Counts = encoding.Counts
MIN_PROMPT = 4  # BOS, human marker, one token, assistant marker


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
    typed = [rows.Conversation(turns=tuple(turns)) for turns in conversations]
    return table(
        typed, "demonstrations", tokenizer, encoding.Options(length=length, prompt_length=length),
        pack=pack, max_truncated_share=max_truncated_share,
    )  # fmt: skip


def text_table(
    tokenizer: chat.Speaker,
    documents: collections.abc.Iterable[str | collections.abc.Sequence[chat.Turn]],
    length: int,
    *,
    pack: bool = True,
) -> tuple[Table, Counts]:
    """Returns (tokens, loss_mask, segments, positions: each [N, T]; Counts) for pretraining.

    Every token is a target, prompts included. A document above T tokens is cut into pieces
    of T, each a segment of its own: nothing is lost, but a piece of one token has no target and
    is dropped.
    Raises: ValueError when nothing is left.
    """
    typed = [
        rows.Text(text=one) if isinstance(one, str) else rows.Conversation(turns=tuple(one))
        for one in documents
    ]
    options = encoding.Options(length=length, prompt_length=length)
    return table(typed, "documents", tokenizer, options, pack=pack, max_truncated_share=1.0)


def pair_table(
    tokenizer: chat.Speaker,
    pairs: collections.abc.Sequence[sources.Preference | chat.Pair],
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
      [N] in tokens; index [N]: the row's place in `pairs`.
    Raises: ValueError when prompt_length >= length, nothing is left, or too much is truncated.
    """
    typed = [
        rows.Answers(prompt=row.prompt, answers=(row.chosen, row.rejected), ranks=(0.0, 1.0))
        for row in pairs
    ]
    options = encoding.Options(length=length, prompt_length=prompt_length)
    return table(typed, "pairs", tokenizer, options, max_truncated_share=max_truncated_share)


def prompt_table(
    tokenizer: chat.Speaker,
    pairs: collections.abc.Sequence[sources.Preference | chat.Pair],
    prompt_length: int,
    *,
    max_truncated_share: float = 0.25,
) -> tuple[Table, Counts]:
    """Returns (table, Counts) of prompts that end in the assistant's marker, padded right.

    A prompt above P tokens is cut as `example.cut_prompt` says.

    Returns: prompts [N, P], lengths [N] in tokens, index [N]: the row's place in `pairs`.
    Raises: ValueError for prompt_length below 4, no row, or too large a share truncated.
    """
    typed = [rows.Prompt(prompt=row.prompt) for row in pairs]
    options = encoding.Options(length=0, prompt_length=prompt_length)
    return table(typed, "prompts", tokenizer, options, max_truncated_share=max_truncated_share)


def table(
    typed: collections.abc.Sequence[rows.Row],
    kind: str,
    tokenizer: chat.Speaker,
    options: encoding.Options,
    *,
    pack: bool = False,
    document_masks: bool = True,
    max_truncated_share: float = 0.25,
) -> tuple[Table, Counts]:
    """Returns (the table of a kind, Counts) of typed rows; document_masks: see `padding.table`.

    Raises: ValueError where lengths do not fit the kind, nothing is left, or too large a share of
      rows is truncated.
    """
    check_lengths(kind, options)
    examples, counts = encoding.encode(typed, kind, tokenizer, options)
    check_counts(counts, max_truncated_share, kind)
    laid_out = padding.table(
        examples, kind, length=options.length, prompt_length=options.prompt_length,
        pad_id=tokenizer.pad_id, pack=pack, document_masks=document_masks,
    )  # fmt: skip
    return laid_out, counts


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
    ids, turns, _ = example.cut_prompt(tokenizer, prompt, prompt_length)
    more, mask = chat.continue_chat(tokenizer, turns, [chat.Turn(chat.ASSISTANT, answer)])
    if not ended and any(mask):
        more = more[: len(mask) - 1 - mask[::-1].index(True)]
    return [*ids, *more][:length]


def check_counts(counts: Counts, max_truncated_share: float, kind: str) -> None:
    """Raises ValueError where nothing is left, or too large a share of rows was cut."""
    if not counts.kept:
        raise ValueError(
            f"{kind} must be left after encoding; got none of {counts.read} (data). "
            "Raise length and prompt_length, or check the data."
        )
    if counts.truncated > max_truncated_share * counts.read:
        raise ValueError(
            f"truncated {kind} must be at most the share {max_truncated_share}; got "
            f"{counts.truncated} of {counts.read} (data). Raise length and prompt_length, or "
            "max_truncated_share."
        )


def check_lengths(kind: str, options: encoding.Options) -> None:
    """Raises ValueError for lengths that leave no room."""
    if kind != "prompts" and options.length < 2:
        raise ValueError(
            f"length must be at least 2 tokens; got {options.length} (data). Raise it."
        )
    if kind in ("documents", "demonstrations", "labelled"):
        return
    if options.prompt_length < MIN_PROMPT:
        raise ValueError(
            f"prompt_length must be at least {MIN_PROMPT} tokens; got {options.prompt_length} "
            "(data). Raise it."
        )
    if kind != "prompts" and options.prompt_length >= options.length:
        raise ValueError(
            f"prompt_length must be below length {options.length}, or no answer fits; got "
            f"{options.prompt_length} (data). Lower prompt_length or raise length."
        )
