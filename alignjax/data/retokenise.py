"""Rows of one tokenizer, re-tokenised by another from the same conversations."""

from collections.abc import Callable

import numpy as np

from alignjax.data import corpus, examples, packing
from alignjax.text import chat


def reader(
    own: corpus.Corpus, other: chat.Speaker, length: int, prompt_length: int, split: str
) -> Callable[..., dict[str, np.ndarray]]:
    """(tokens [N, T], lengths, prompt_lengths, index) -> rows [N, length] of the other tokenizer.

    The prompt is the conversation with that index of the split, the answer the text of the tokens
    after it; both are laid out by the other tokenizer's template, ended if the answer was. Prompts
    beyond prompt_length lose their oldest turns and answers beyond length their ends.

    Raises:
      ValueError: this data's rows are no text.
    """
    conversation = own.conversation
    if conversation is None:
        raise ValueError(
            "a network with another tokenizer must read text; this data has none (data). Use a "
            "network that was trained on the same data."
        )

    def read(
        tokens: np.ndarray, lengths: np.ndarray, prompt_lengths: np.ndarray, index: np.ndarray
    ) -> dict[str, np.ndarray]:
        documents = []
        for row, end, start, number in zip(tokens, lengths, prompt_lengths, index, strict=True):
            answer = row[start:end]
            ended = len(answer) > 0 and answer[-1] == own.eos
            text = own.text(answer[:-1] if ended else answer)
            ids = examples.answer_ids(
                other, conversation(split, int(number)), text, length, prompt_length, ended=ended
            )
            documents.append((ids, [True] * len(ids)))
        return packing.lay_out(documents, length, pad_id=other.pad_id)

    return read


def first_difference(one: chat.Speaker, other: chat.Speaker) -> str:
    """The first token in which two vocabularies differ, in words; empty where they are equal."""
    for token in range(min(one.vocab_size, other.vocab_size)):
        texts = [speaker.decode([token]) for speaker in (one, other)]
        names = [
            next((name for name, number in speaker.special.items() if number == token), text)
            for speaker, text in zip((one, other), texts, strict=True)
        ]
        if names[0] != names[1]:
            return f"token {token} is {names[0]!r} here and {names[1]!r} there"
    if one.vocab_size != other.vocab_size:
        return f"{one.vocab_size} tokens here and {other.vocab_size} there"
    return ""
