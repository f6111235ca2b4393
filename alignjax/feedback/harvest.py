"""Judgements of a database as files of training rows, read back by our own loader."""

import collections
import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.core import values
from alignjax.data import containers, reading
from alignjax.data import rows as typed
from alignjax.feedback import aggregate, rows, votes
from alignjax.feedback.store import items, queries
from alignjax.text import chat

RAW = "judgements.jsonl"
PAIRED = ("pairs", "comparisons")  # tables of two answers each, split by their prompts
# The files of each kind of --kind.
FILES: Mapping[str, tuple[str, ...]] = {
    "pairs": ("pairs",),
    "comparisons": ("comparisons",),  # pairs, and every two answers of a ranking
    "rankings": ("rankings", "nectar"),
    "scores": ("scores", "ultrafeedback"),
    "demonstrations": ("demonstrations",),
    "unpaired": ("unpaired",),
    "spans": ("spans",),
}


def _dawid_skene(votes: np.ndarray) -> np.ndarray:
    if not np.isfinite(votes).any():
        return aggregate.majority(votes, 2)
    return aggregate.dawid_skene(votes, 2).posterior


# How votes on two answers are joined: by weights of raters who share enough items, else by number.
AGGREGATES: Mapping[str, votes.Aggregate] = {
    "weighted": lambda votes: aggregate.combined(votes, 2),
    "majority": lambda votes: aggregate.majority(votes, 2),
    "dawid_skene": _dawid_skene,
}
# Whose judgements become rows, by the kind of rater.
VOICES: Mapping[str, Callable[[str], bool]] = {
    "all": lambda kind: True,
    "people": lambda kind: kind != items.JUDGE,
    "judges": lambda kind: kind == items.JUDGE,
}


class Harvest(NamedTuple):
    """files: {name: rows}. judgements: {kind: (that may train, those that become rows)}.

    raw: rows of judgements.jsonl, which has every judgement.
    """

    files: dict[str, int]
    judgements: dict[str, tuple[int, int]]
    raw: int

    def lines(self) -> list[str]:
        """What was written, in words."""
        told = [f"{RAW}: {self.raw} judgements, all that the database has"]
        told += [f"{name}: {count} rows" for name, count in self.files.items()]
        for kind, (count, used) in self.judgements.items():
            rest = f", {count - used} in {RAW} alone" if used < count else ""
            told.append(f"{kind}: {used} of {count} judgements become rows{rest}")
        return told


def harvest(
    read: Callable[..., Any],
    to: pathlib.Path,
    kinds: Sequence[str] = tuple(FILES),
    *,
    join: str = "weighted",
    voices: str = "all",
    holdout: float = 0.05,
) -> Harvest:
    """Writes the files of some kinds, and every judgement as it is.

    Args:
      read: of a database. kinds: of FILES. join: of AGGREGATES. voices: of VOICES, whose judgements
        become rows. holdout: share of prompts whose pairs are for evaluation, by the hash that the
        loader takes too.

    Raises:
      ValueError: an unknown kind, no judgement, files of something else there, or counts that
        differ from those of the database.
    """
    for kind in kinds:
        values.check_choice("--kind", kind, FILES)
    values.check_choice("--aggregate", join, AGGREGATES)
    values.check_choice("--raters", voices, VOICES)
    values.check_number("--holdout", holdout, minimum=0, below=1)
    to.mkdir(parents=True, exist_ok=True)
    judged = list(read(lambda c: list(queries.judgements(c))))
    if not judged:
        raise ValueError("--database must hold judgements; got none. Run alignjax annotate first.")
    raters = read(queries.raters)

    @functools.cache
    def item_of(name: str) -> Any:
        return read(queries.item, name)

    _check_own(to)
    raw = _write(to / RAW, _raw(judged, item_of, raters))
    found = rows.collect(judged, item_of, lambda rater: VOICES[voices](raters[rater].kind))
    made = rows.Rows(found, raters, AGGREGATES[join])
    files: dict[str, int] = {}
    for table in (name for kind in kinds for name in FILES[kind]):
        own = list(made.of(table))
        for name, fields in _files(table, own, holdout).items():
            files[name] = _write(to / name, fields)
    told = read(queries.counts)
    seen = {kind: found.used[kind] + found.unused[kind] for kind in told}
    totals = {"all": read(queries.totals)["judgement"], **told}
    for what, count in totals.items():
        if count != (raw if what == "all" else seen[what]):
            raise ValueError(
                f"judgements ({what}) must be as many as in the database, {count}; got "
                f"{raw if what == 'all' else seen[what]}. Somebody judges now: harvest again."
            )
    for name, count in files.items():
        check_back(to / name, count)
    return Harvest(files, {kind: (n, found.used[kind]) for kind, n in told.items()}, raw)


def _check_own(to: pathlib.Path) -> None:
    """Removes the files of an earlier harvest.

    Raises:
      ValueError: there are others.
    """
    names = {f"{name}.jsonl" for files in FILES.values() for name in files}
    names |= {RAW, *(f"{table}.{split}.jsonl" for table in PAIRED for split in ("train", "eval"))}
    for file in to.iterdir():
        if file.name not in names:
            raise ValueError(
                f"--to must be an empty folder or one of an earlier harvest; got {file.name} "
                f"({to}). Name another."
            )
    for file in to.iterdir():
        file.unlink()


def _write(file: pathlib.Path, fields: Any) -> int:
    count = 0
    with file.open("w", encoding="utf-8") as out:
        for row in fields:
            out.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def _raw(
    judged: Sequence[queries.Judged],
    item_of: Callable[[str], Any],
    raters: Mapping[int, queries.Rater],
) -> Iterator[dict[str, Any]]:
    """Every judgement with what it is on."""
    for own in judged:
        item, rater = item_of(own.item), raters[own.rater]
        yield {
            **own._asdict(), "rater": f"rater-{own.rater}", "rater_kind": rater.kind,
            "attributes": rater.attributes, "prompt": rows.messages(item.turns),
            "answers": [candidate._asdict() for candidate in item.candidates],
            "language": item.language, "source": item.source,
        }  # fmt: skip


def _files(
    table: str, own: Sequence[tuple[rows.Turns, dict[str, Any]]], holdout: float
) -> dict[str, list[dict[str, Any]]]:
    """{file: rows} of a table; pairs are split by their prompts."""
    if table not in PAIRED:
        return {f"{table}.jsonl": [fields for _, fields in own]} if own else {}
    pairs = _as_pairs(own)
    found: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for (turns, _), fields in zip(own, pairs, strict=True):
        prompt = typed.Prompt(prompt=tuple(chat.Turn(*turn) for turn in turns))
        split = "eval" if reading.is_held_out(prompt, holdout) else "train"
        found[f"{table}.{split}.jsonl"].append(fields)
    return dict(found)


def _as_pairs(own: Sequence[tuple[rows.Turns, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Pairs as transcripts of hh-rlhf where all of them can be told apart again, else messages."""
    both = [
        [rows.transcript(turns, fields[side]) for side in ("chosen", "rejected")]
        for turns, fields in own
    ]
    if all(one and two and one.strip() != two.strip() for one, two in both):
        return [
            {**fields, "chosen": one, "rejected": two}
            for (_, fields), (one, two) in zip(own, both, strict=True)
        ]
    return [
        {
            **fields, "prompt": rows.messages(turns),
            **{s: rows.messages(((chat.ASSISTANT, fields[s]),)) for s in ("chosen", "rejected")},
        }
        for turns, fields in own
    ]  # fmt: skip


def check_back(file: pathlib.Path, count: int) -> None:
    """Reads a file by our own loader.

    Raises:
      ValueError: a row is refused, or there are others than `count`.
    """
    parts = containers.parts(file)
    layout, _ = reading.detected(parts, "", {}, str(file))
    source = reading.Source(layout=layout, max_unusable_share=0.0)
    tally = reading.Tally()
    read = sum(1 for _ in reading.read(parts, source, tally))
    tally.check(source)
    if read != count:
        raise ValueError(f"{file} must be read back with {count} rows; got {read}.")
