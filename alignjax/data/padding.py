"""Examples to tables of fixed shape: one a row, or several packed into one."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from alignjax.data import encoding, packing, tables

PACKED = ("documents", "demonstrations")  # kinds of which a row may hold several
SIDED = ("pairs", "rankings")
Shapes = Mapping[str, tuple[tuple[int, ...], Any]]  # column -> (shape of a row's entry, dtype)
# Columns that a table of pairs has where its rows need them, in their order, and what they say of
# rows that do not.
OPTIONAL = {
    "preferred": np.array([[0, 1]], np.int32),
    "pair_mask": np.ones(1, np.bool_),
    "preference": np.ones(1, np.float32),
    "weight": np.ones((), np.float32),
    "margin": np.zeros(1, np.float32),
    "group": np.zeros((), np.int32),
}


def table(
    examples: Sequence[encoding.Example],
    kind: str,
    *,
    length: int,
    prompt_length: int,
    pad_id: int,
    pack: bool = False,
    document_masks: bool = True,
    answers: int = 0,
    compared: int = 0,
) -> tables.Table:
    """The table of a kind; see `tables.KINDS`.

    Args:
      length, prompt_length: T and P. pack: several documents a row, where the kind allows it.
      document_masks: whether those in a row of documents are segments of their own; else they are
      one, in which each token sees all before it, and all but the row's first are targets.
      answers, compared: K and C; 0 is the most of any example, and for one comparison of two
        answers no columns say which is compared.
    """
    if kind == "prompts":
        return _prompts(examples, prompt_length, pad_id)
    if kind in SIDED:
        return _sided(examples, kind, length, pad_id, answers, compared)
    rows = None
    if pack and kind in PACKED:
        rows = packing.best_fit([len(example["ids"]) for example in examples], length)
    documents: list[Any] = [(example["ids"], example["mask"]) for example in examples]
    if rows is not None and not document_masks and kind == "documents":
        whole = [[documents[place] for place in row] for row in rows]
        documents, rows = (
            [tuple(map(np.concatenate, zip(*own, strict=True))) for own in whole],
            None,
        )
    result = packing.lay_out(documents, length, pad_id=pad_id, rows=rows)
    if kind in PACKED:
        return result
    for name in ("desirable", "scores"):
        if any(name in example for example in examples):
            result[name] = np.concatenate([example[name] for example in examples])
    if kind == "labelled":
        result["labels"] = np.stack([example["labels"] for example in examples])
        result["weight"] = np.concatenate([example["weight"] for example in examples])
    if kind == "steps":
        result |= _steps(examples, result["tokens"].shape)
    return result


def _prompts(examples: Sequence[encoding.Example], length: int, pad_id: int) -> tables.Table:
    tokens = np.full((len(examples), length), pad_id, np.int32)
    sizes = np.array([len(example["ids"]) for example in examples], np.int64)
    if len(examples):
        there = np.arange(length) < sizes[:, None]
        tokens[there] = np.concatenate([example["ids"] for example in examples])
    lengths = np.array([len(example["ids"]) for example in examples], np.int32)
    return {"prompts": tokens, "lengths": lengths, "index": _index(examples)}


def _index(examples: Sequence[encoding.Example]) -> np.ndarray:
    return np.array([int(example["row"][0]) for example in examples], np.int32)


def _steps(examples: Sequence[encoding.Example], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    mask, labels = np.zeros(shape, bool), np.zeros(shape, np.float32)
    for row, example in enumerate(examples):
        mask[row, example["step_ends"]] = True
        labels[row, example["step_ends"]] = example["step_labels"]
    return {"step_mask": mask, "step_labels": labels}


def _sided(
    examples: Sequence[encoding.Example],
    kind: str,
    length: int,
    pad_id: int,
    answers: int,
    compared: int,
) -> tables.Table:
    """Rows of K answers; an answer that is not there is all padding."""
    count = answers or max((len(example["sizes"]) for example in examples), default=2)
    ids: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    sizes = np.zeros((len(examples), count), np.int64)
    none = np.zeros(max((len(example["prompt"]) for example in examples), default=0), bool)
    for row, example in enumerate(examples):
        prompt, answers_of, mask = example["prompt"], example["answers"], example["mask"]
        start, before = 0, none[: len(prompt)]
        for place, size in enumerate(example["sizes"].tolist()):
            ids += (prompt, answers_of[start : start + size])
            masks += (before, mask[start : start + size])
            sizes[row, place] = len(prompt) + size
            start += size
    ones, shape = np.ones(sizes.size, np.int32), (sizes.size, length)
    flat = packing.scatter(
        ids, masks, sizes.ravel(), np.arange(sizes.size), ones, shape, pad_id=pad_id
    )
    result: tables.Table = {n: x.reshape(-1, count, length) for n, x in flat.items()}
    result["lengths"] = sizes.astype(np.int32)
    result["prompt_lengths"] = np.array([len(e["prompt"]) for e in examples], np.int32)
    result["index"] = _index(examples)
    if kind == "rankings":
        return result | _ranks(examples, count)
    return result | _comparisons(examples, compared, count)


def _ranks(examples: Sequence[encoding.Example], count: int) -> dict[str, np.ndarray]:
    ranks = np.zeros((len(examples), count), np.float32)
    mask = np.zeros((len(examples), count), bool)
    for row, example in enumerate(examples):
        size = len(example["ranks"])
        ranks[row, :size], mask[row, :size] = example["ranks"], True
    return {"ranks": ranks, "answer_mask": mask}


def _comparisons(
    examples: Sequence[encoding.Example], compared: int, count: int
) -> dict[str, np.ndarray]:
    """What is compared; preferences and weights unless all are 1; margins and groups if any."""
    size = compared or max((len(example["preference"]) for example in examples), default=1)
    shape = (len(examples), size)
    preferred, mask = np.zeros((*shape, 2), np.int32), np.zeros(shape, bool)
    preference, margin = np.ones(shape, np.float32), np.zeros(shape, np.float32)
    for row, example in enumerate(examples):
        own = len(example["preference"])
        preferred[row, :own] = example["preferred"].reshape(own, 2)
        preference[row, :own], mask[row, :own] = example["preference"], True
        margin[row, :own] = example.get("margin", 0.0)
    columns: dict[str, np.ndarray] = {}
    if size > 1 or count > 2 or not mask.all():
        columns |= {"preferred": preferred, "pair_mask": mask}
    if (preference != 1).any():
        columns["preference"] = preference
    weights = np.array([example["weight"][0] for example in examples], np.float32)
    if (weights != 1).any():
        columns["weight"] = weights
    if any("margin" in example for example in examples):
        columns["margin"] = margin
    if any("group" in example for example in examples):
        columns["group"] = np.concatenate([example["group"] for example in examples])
    return columns


def widest(columns: Iterable[Shapes]) -> Shapes:
    """The columns that hold the rows of several tables of one kind."""
    found: dict[str, tuple[tuple[int, ...], Any]] = {}
    for own in columns:
        for name, (tail, kind) in own.items():
            other, _ = found.get(name, (tail, kind))
            found[name] = (tuple(map(max, tail, other)), kind)
    places = {name: place for place, name in enumerate(OPTIONAL)}
    return dict(sorted(found.items(), key=lambda item: places.get(item[0], -1)))


def widened(table: tables.Table, columns: Shapes, pad_id: int) -> tables.Table:
    """A table's rows in the columns that `widest` says, as if all had been laid out together."""
    rows, result = tables.count(table), tables.Table()
    for name, (tail, kind) in columns.items():
        own = table.get(name)
        if own is None:
            own = np.broadcast_to(OPTIONAL[name], (rows, *OPTIONAL[name].shape))
        rest = {"tokens": pad_id, "preference": 1}.get(name, 0)
        result[name] = np.full((rows, *tail), rest, kind)
        result[name][tuple(slice(size) for size in own.shape)] = own
    return result
