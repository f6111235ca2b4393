"""The examples of one row, by the kind of table; see `encoding` for what is in them."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from alignjax.data import comparisons, groups, records, rows
from alignjax.data.example import (
    Counts,
    Example,
    Options,
    array_of,
    cut_prompt,
    mask_of,
    text_ids,
)
from alignjax.text import chat
from alignjax.text.tokenizers import interface

Ids = tuple[list[int], list[bool]]  # ids, and whether each is a target
Made = tuple[list[Example], Counts]
STEP = "\n"  # between the steps of an answer: the step's label stands on it


def _language(ids: list[int], mask: list[bool]) -> Example:
    return {"ids": array_of(ids), "mask": mask_of(mask)}


def _best(row: rows.Row) -> rows.Turns | None:
    """The conversation to imitate that a row holds, or None."""
    if isinstance(row, rows.Conversation):
        return row.turns
    if isinstance(row, rows.Answers):
        return (*row.prompt, *row.answers[comparisons.best(row)])
    if isinstance(row, rows.Judged) and row.desirable:
        return (*row.prompt, *row.answer)
    return None


def document(row: rows.Row, speaker: chat.Speaker, options: Options) -> Made:
    """Pieces of at most `length` tokens of a text or conversation, every token a target.

    Nothing is lost, but for a piece of one token, which has no target.
    """
    if isinstance(row, rows.Text):
        if not row.text:
            return [], Counts(dropped_empty=1)
        ids = text_ids(speaker, row.text)
    else:
        turns = _best(row)
        if turns is None:
            return [], Counts(left_out=1)
        if not any(turn.text for turn in turns):
            return [], Counts(dropped_empty=1)
        ids, _ = chat.encode_chat(speaker, turns, tools=row.tools)
    pieces = [ids[i : i + options.length] for i in range(0, len(ids), options.length)]
    examples = [
        {"ids": array_of(piece), "mask": np.ones(len(piece), bool)}
        for piece in pieces
        if len(piece) > 1
    ]
    return examples, Counts(split=int(len(ids) > options.length))


def demonstration(row: rows.Row, speaker: chat.Speaker, options: Options) -> Made:
    """A conversation cut at `length` tokens; the assistant's tokens are targets."""
    turns = _best(row)
    if turns is None:
        return [], Counts(left_out=1)
    ids, mask = chat.encode_chat(speaker, turns, tools=row.tools)
    cut = int(len(ids) > options.length)
    ids, mask = ids[: options.length], mask[: options.length]
    if not any(mask):
        return [], Counts(truncated=cut, truncated_answers=cut, dropped_empty=1)
    return [_language(ids, mask)], Counts(truncated=cut, truncated_answers=cut)


def prompt(row: rows.Row, speaker: chat.Speaker, options: Options) -> Made:
    """A prompt that ends in the assistant's marker."""
    ids, _, cut = cut_prompt(speaker, rows.prompt_of(row), options.prompt_length, row.tools)
    return [{"ids": array_of(ids)}], Counts(truncated=int(cut), truncated_prompts=int(cut))


class _Sides:
    """The ids of a prompt and of answers to it, cut to fit, and what was cut."""

    def __init__(
        self, row: rows.Row, answers: Sequence[rows.Turns], speaker: chat.Speaker, options: Options
    ):
        asked = rows.prompt_of(row)
        self.prompt, turns, cut = cut_prompt(speaker, asked, options.prompt_length, row.tools)
        # A last turn that was cut is text that the template may trim: its ids are not those.
        known = self.prompt if not cut else None
        sides = [chat.continue_chat(speaker, turns, a, row.tools, known) for a in answers]
        room = options.length - len(self.prompt)
        long = any(len(ids) > room for ids, _ in sides)
        self.answers: list[Ids] = [(ids[:room], mask[:room]) for ids, mask in sides]
        self.counts = Counts(
            truncated_prompts=int(cut), truncated_answers=int(long), truncated=int(cut or long)
        )

    def lost(self, **reason: int) -> Made:
        """No example, for a reason."""
        return [], dataclasses.replace(self.counts, **reason)

    def whole(self, ids: Ids) -> Example:
        """Prompt and answer as one row."""
        return _language(self.prompt + ids[0], [False] * len(self.prompt) + ids[1])

    def example(self) -> Example:
        """The prompt, and all answers one after another."""
        return {
            "prompt": array_of(self.prompt),
            "answers": array_of(list(itertools.chain.from_iterable(i for i, _ in self.answers))),
            "mask": mask_of(list(itertools.chain.from_iterable(m for _, m in self.answers))),
            "sizes": np.array([len(ids) for ids, _ in self.answers], np.int32),
        }


def pair(row: rows.Row, speaker: chat.Speaker, options: Options) -> Made:
    """Answers and which are compared: of two, the one more likely preferred comes first."""
    if not isinstance(row, rows.Answers):
        return [], Counts(left_out=1)
    chosen = comparisons.choose(row, options.pairs)
    if chosen is None:
        return [], Counts(dropped_tied=1)
    sides = _Sides(row, [row.answers[i] for i in chosen.answers], speaker, options)
    if not all(any(mask) for _, mask in sides.answers):
        return sides.lost(dropped_empty=1)
    if len(sides.answers) == 2 and sides.answers[0] == sides.answers[1]:
        return sides.lost(dropped_identical=1)
    example = {
        **sides.example(),
        "preferred": np.array(chosen.compared, np.int32).reshape(-1),
        "preference": np.array(chosen.preference, np.float32),
    }
    if options.margin in row.scores:
        scores = np.array([row.scores[options.margin][i] for i in chosen.answers], np.float32)
        better, worse = np.array(chosen.compared).T
        example["margin"] = scores[better] - scores[worse]
    if options.groups:
        example["group"] = np.array([groups.number(row, options.groups)], np.int32)
    return [example], sides.counts


def ranking(row: rows.Row, speaker: chat.Speaker, options: Options) -> Made:
    """All answers with their ranks."""
    if not isinstance(row, rows.Answers) or row.ranks is None:
        return [], Counts(left_out=1)
    sides = _Sides(row, row.answers, speaker, options)
    kept = [i for i, (_, mask) in enumerate(sides.answers) if any(mask)]
    sides.answers = [sides.answers[i] for i in kept]
    ranks = [row.ranks[i] for i in kept]
    if len(kept) < 2:
        return sides.lost(dropped_empty=1)
    if len(set(ranks)) == 1:
        return sides.lost(dropped_tied=1)
    return [{**sides.example(), "ranks": np.array(ranks, np.float32)}], sides.counts


def single(row: rows.Row, speaker: chat.Speaker, options: Options) -> Made:
    """Answers that are wanted or not: of a ranking the best and the worst."""
    if isinstance(row, rows.Judged):
        labelled = [(row.answer, row.desirable)]
    elif isinstance(row, rows.Answers):
        chosen = comparisons.choose(row, comparisons.BEST_WORST)
        if chosen is None or chosen.preference == (0.5,):
            return [], Counts(dropped_tied=1)
        better, worse = chosen.answers
        labelled = [(row.answers[better], True), (row.answers[worse], False)]
    else:
        return [], Counts(left_out=1)
    sides = _Sides(row, [answer for answer, _ in labelled], speaker, options)
    examples = [
        {**sides.whole(ids), "desirable": np.array([good])}
        for ids, (_, good) in zip(sides.answers, labelled, strict=True)
        if any(ids[1])
    ]
    return examples, dataclasses.replace(sides.counts, dropped_empty=int(not examples))


def score(row: rows.Row, speaker: chat.Speaker, options: Options) -> Made:
    """Every answer with its number on one scale."""
    scales: Mapping[str, tuple[float, ...]]
    if isinstance(row, rows.Scored):
        answers, scales = [row.answer], {name: (n,) for name, n in row.scores.items()}
    elif isinstance(row, rows.Answers):
        answers, scales = list(row.answers), row.scores
    else:
        return [], Counts(left_out=1)
    name = options.score or next(iter(scales), "")
    if name not in scales:
        raise records.problem(
            f"data.score {name!r}" if name else "rows", "name a scale of the row",
            ", ".join(scales) or "no score", file=row.file, line=row.line, reason="no score",
            advice="Choose one of them.",
        )  # fmt: skip
    sides = _Sides(row, answers, speaker, options)
    examples = [
        {**sides.whole(ids), "scores": np.array([number], np.float32)}
        for ids, number in zip(sides.answers, scales[name], strict=True)
        if any(ids[1])
    ]
    return examples, dataclasses.replace(sides.counts, dropped_empty=int(not examples))


def steps(row: rows.Row, speaker: chat.Speaker, options: Options) -> Made:
    """An answer in steps: each is encoded by itself, and labelled at its last token."""
    if not isinstance(row, rows.Steps):
        return [], Counts(left_out=1)
    ids, _, cut = cut_prompt(speaker, row.prompt, options.prompt_length, row.tools)
    start, ends = len(ids), []
    for number, text in enumerate(row.steps if row.is_text else _with_breaks(row.steps)):
        ids += speaker.encode(text, interface.TEXT if number else interface.SPECIAL)
        ends.append(len(ids) - 1)
    ids.append(speaker.eos_id)
    long = len(ids) > options.length
    ids, ends = ids[: options.length], [end for end in ends if end < options.length]
    counts = Counts(
        truncated_prompts=int(cut), truncated_answers=int(long), truncated=int(cut or long)
    )
    if not ends:
        return [], dataclasses.replace(counts, dropped_empty=1)
    example = _language(ids, [i >= start for i in range(len(ids))])
    example["step_ends"] = np.array(ends, np.int32)
    example["step_labels"] = np.array(row.labels[: len(ends)], np.float32)
    return [example], counts


def labelled(row: rows.Row, speaker: chat.Speaker, options: Options) -> Made:
    """A conversation with its labels, NaN where there is none; a long one loses its beginning.

    Guards read what does not fit in pieces, of which the last is these tokens.
    """
    if not isinstance(row, rows.Labelled):
        return [], Counts(left_out=1)
    unknown = [name for name in row.labels if name not in options.categories]
    if unknown:
        raise records.problem(
            f"the label {unknown[0]!r:.40}", "be a category of data.categories",
            ", ".join(options.categories) or "none", file=row.file, line=row.line,
            reason="category", advice="Name all categories of the rows, in any order.",
        )  # fmt: skip
    ids, _ = chat.encode_chat(speaker, row.turns, tools=row.tools)
    cut = int(len(ids) > options.length)
    ids = ids[-options.length :]
    example = _language(ids, [True] * len(ids))
    labels = [row.label(name) for name in options.categories]
    example["labels"] = np.array(labels, np.float32)
    return [example], Counts(truncated=cut, truncated_prompts=cut)


def _with_breaks(texts: Sequence[str]) -> Iterator[str]:
    for number, text in enumerate(texts, start=1):
        is_broken = text.endswith(STEP) or number == len(texts)
        yield text if is_broken else text + STEP


def texts(row: rows.Row, kind: str, options: Options) -> Iterator[str]:
    """The texts of a row that its example in our own layout is made of, steps apart."""
    if kind in ("prompts", "steps"):
        yield from (turn.text for turn in rows.prompt_of(row))
    elif kind in ("documents", "demonstrations") and not isinstance(row, rows.Text):
        yield from (turn.text for turn in _best(row) or ())
    elif isinstance(row, rows.Answers) and len(row.answers) > 2 and kind in ("pairs", "unpaired"):
        rule = options.pairs if kind == "pairs" else comparisons.BEST_WORST
        chosen = comparisons.choose(row, rule)
        yield from (turn.text for turn in row.prompt)
        for place in chosen.answers if chosen is not None else ():
            yield from (turn.text for turn in row.answers[place])
    else:
        yield from rows.texts(row)


Maker = Callable[[rows.Row, chat.Speaker, Options], Made]
MAKERS: Mapping[str, Maker] = {
    "documents": document,
    "demonstrations": demonstration,
    "prompts": prompt,
    "pairs": pair,
    "rankings": ranking,
    "unpaired": single,
    "scored": score,
    "steps": steps,
    "labelled": labelled,
}
