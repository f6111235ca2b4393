"""Preference pairs from files: JSONL folders, single files, and TFDS array_record folders.

Rows belong to the split that their file's name states, if any name does (`helpful.eval.jsonl`);
otherwise the hash of a conversation's opening decides, so that a prompt is in one split only.

Two kinds of bad row are told apart. A broken row (JSON, encoding, fields) is an error, or is
skipped and counted on request. An unusable pair (equal answers, an empty last answer, differing
prompts, a repeated row) is dropped and counted up to a small share, since every published
preference set holds some; `max_unusable_share=0` refuses the first.
"""

import collections
import collections.abc
import dataclasses
import fnmatch
import functools
import hashlib
import math
import os
import pathlib
import re
import typing

from alignjax.data import array_record, records
from alignjax.text import chat

DataError = records.DataError
SPLITS = ("train", "eval", "all")
DUPLICATE = "duplicate row"
UNUSABLE = (chat.EQUAL, chat.PROMPTS_DIFFER, chat.NO_ANSWER, chat.EMPTY_ANSWER, DUPLICATE)
Seen = dict[str, set[typing.Any]]  # keys of earlier rows: digests ("rows") and fields ("ids")
_TRAIN_WORDS = {"train", "training"}
_EVAL_WORDS = {"eval", "evaluation", "test", "valid", "validation", "dev"}


class Preference(typing.NamedTuple):
    """One usable pair (fields as in chat.Pair) and the file and line it came from."""

    prompt: tuple[chat.Turn, ...]
    chosen: tuple[chat.Turn, ...]
    rejected: tuple[chat.Turn, ...]
    diverged: bool
    file: str
    line: int


@dataclasses.dataclass(frozen=True)
class Preferences:
    """The rows of a split. `fingerprint` changes with the files' contents and the selection.

    `read` counts all rows of the files read, before a hold-out takes its share; `dropped` maps
    the reason of every row left out to its count.
    """

    rows: tuple[Preference, ...]
    fingerprint: str
    read: int
    dropped: collections.abc.Mapping[str, int]

    def __len__(self) -> int:
        return len(self.rows)

    def summary(self) -> str:
        """Returns one line of counts, such as '6020 rows of 6000 read; dropped: none'."""
        reasons = ", ".join(f"{count} {name}" for name, count in sorted(self.dropped.items()))
        diverged = sum(row.diverged for row in self.rows)
        return (
            f"{len(self.rows)} rows of {self.read} read, {diverged} part before the last answer; "
            f"dropped: {reasons or 'none'}"
        )


class Part(typing.NamedTuple):
    """One file, or one split of a TFDS folder: `rows()` yields (line, fields or DataError)."""

    name: str
    where: str
    split: str | None
    files: tuple[pathlib.Path, ...]
    rows: typing.Callable[[], collections.abc.Iterable[tuple[int, records.Fields | DataError]]]


def read_preferences(
    path: str | os.PathLike[str],
    *,
    split: str,
    names: str = "*",
    holdout: float = 0.05,
    on_bad_row: str = "error",
    max_bad_share: float = 0.01,
    max_unusable_share: float = 0.02,
    max_line_bytes: int = records.MAX_LINE_BYTES,
) -> Preferences:
    """Returns the preference pairs of a split.

    Args:
      path: a folder of .jsonl / .jsonl.gz files with fields `chosen` and `rejected` (hh-rlhf
        transcripts), one such file, or a TFDS folder in array_record format.
      split: "train", "eval" or "all". If some file is named for evaluation, names decide;
        otherwise `holdout` of the conversations, at least one, are kept for "eval".
      names: glob on file names that selects a part of a folder.
      on_bad_row: "error" stops at the first broken row; "skip" counts it.
      max_bad_share: share of rows in [0, 1] that "skip" may skip.
      max_unusable_share: share of rows in [0, 1] that may be unusable as pairs.
      max_line_bytes: longest line, in bytes.
    Raises: DataError (a ValueError) in one line that names file, line, field and rule.
    """
    _check_options(split, holdout, on_bad_row, max_bad_share, max_unusable_share)
    parts, named = split_parts(path, split=split, names=names, max_line_bytes=max_line_bytes)
    rows, errors, read = [], [], 0
    seen: Seen = {"rows": set(), "ids": set()}
    for part in parts:
        for line, fields in part.rows():
            read += 1
            row = fields if isinstance(fields, DataError) else _row(part.where, line, fields, seen)
            if not isinstance(row, DataError):
                rows.append(row)
                continue
            if on_bad_row == "error" and row.reason not in UNUSABLE:
                raise row
            errors.append(row)
    unusable = [error for error in errors if error.reason in UNUSABLE]
    broken = [error for error in errors if error.reason not in UNUSABLE]
    _check_share(broken, read, max_bad_share, "max_bad_share")
    _check_share(unusable, read, max_unusable_share, "max_unusable_share")
    if not named:
        rows = _held_out(rows, split, holdout)
    if not rows:
        raise records.problem(
            "data", f"hold at least one usable row for split {split!r}", f"{read} read, none left",
            file=str(path), advice="Check the path, the split and the hold-out.", reason="no rows",
        )  # fmt: skip
    files = dict.fromkeys(file for part in parts for file in part.files)
    selection = records.fingerprint(files) + (names if named else f"{names} {split} {holdout!r}")
    return Preferences(
        rows=tuple(rows),
        fingerprint=hashlib.sha256(selection.encode()).hexdigest(),
        read=read,
        dropped=dict(collections.Counter(error.reason for error in errors)),
    )


def _check_options(
    split: str, holdout: float, on_bad_row: str, max_bad_share: float, max_unusable_share: float
) -> None:
    if split not in SPLITS:
        raise DataError(
            f"split must be one of {', '.join(SPLITS)}; got {split!r} (read_preferences). "
            "Choose one of them."
        )
    if on_bad_row not in ("error", "skip"):
        raise DataError(
            f"on_bad_row must be error or skip; got {on_bad_row!r} (read_preferences). Choose one."
        )
    shares = {
        "holdout": holdout,
        "max_bad_share": max_bad_share,
        "max_unusable_share": max_unusable_share,
    }
    for name, share in shares.items():
        if not 0 <= share <= 1 or (name == "holdout" and share == 1):
            raise DataError(
                f"{name} must be a share in 0..1; got {share} (read_preferences). Lower it."
            )


def split_parts(
    path: str | os.PathLike[str],
    *,
    split: str,
    names: str = "*",
    max_line_bytes: int = records.MAX_LINE_BYTES,
) -> tuple[list[Part], bool]:
    """Returns the parts to read for a split, and whether names alone decide what belongs to it.

    Raises: DataError for a path without data, or names that leave the split open.
    """
    return _select(_parts(pathlib.Path(path), names, max_line_bytes), split, str(path))


def _parts(path: pathlib.Path, names: str, max_line_bytes: int) -> list[Part]:
    if (path / "dataset_info.json").is_file():
        files = array_record.files(path)
        splits = array_record.splits(path).items()
        parts = [
            Part(name, str(path / name), _split_of(name), files, rows) for name, rows in splits
        ]
        return [part for part in parts if fnmatch.fnmatch(part.name, names)]
    return [
        Part(
            file.name,
            str(file),
            _split_of(file.name),
            (file,),
            functools.partial(records.read_jsonl, file, max_line_bytes=max_line_bytes),
        )
        for file in records.jsonl_files(path, names)
    ]


def _select(parts: list[Part], split: str, path: str) -> tuple[list[Part], bool]:
    """Returns the parts to read, and whether names alone decide the split."""
    splits = {part.split for part in parts}
    if split == "all":
        return parts, True
    if "eval" not in splits:
        return parts, False
    if None in splits:
        unnamed = next(part.name for part in parts if part.split is None)
        raise records.problem(
            "data file", "say train or eval in its name when another file does", repr(unnamed),
            file=path, advice="Rename it, or select files by `names`.", reason="split",
        )  # fmt: skip
    chosen = [part for part in parts if part.split == split]
    if not chosen:
        raise records.problem(
            "data", f"hold a file named for split {split!r}", "only files of the other split",
            file=path, advice="Add such a file, or ask for split 'all'.", reason="split",
        )  # fmt: skip
    return chosen, True


def _split_of(name: str) -> str | None:
    """Returns the split that a file name states: a whole word, so `latest` is no test."""
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    if words & _EVAL_WORDS:
        return "eval"
    return "train" if words & _TRAIN_WORDS else None


def _row(file: str, line: int, fields: records.Fields, seen: Seen) -> Preference | DataError:
    for name in ("chosen", "rejected"):
        error = text_problem(file, line, name, fields)
        if error is not None:
            return error
    if "id" in fields:
        key = repr(fields["id"])
        if key in seen["ids"]:
            return _problem(
                file, line, "id", "be unique", "an id seen before", "Renumber.", "duplicate id"
            )
        seen["ids"].add(key)
    name = "chosen"
    try:
        chosen = chat.parse_transcript(fields["chosen"])
        name = "rejected"
        rejected = chat.parse_transcript(fields["rejected"])
        name = "chosen"
        pair = chat.split_pair(chosen, rejected)
    except chat.ChatError as error:
        advice = "Drop the row or repair it."
        return _problem(file, line, name, error.rule, error.got, advice, error.reason)
    digest = hashlib.sha256(repr(pair).encode()).digest()
    if digest in seen["rows"]:
        got, advice = "the pair of an earlier row", "Drop the row."
        return _problem(file, line, "row", "differ from all others", got, advice, DUPLICATE)
    seen["rows"].add(digest)
    return Preference(*pair, file, line)


def text_problem(file: str, line: int, name: str, fields: records.Fields) -> DataError | None:
    """Returns the error of a field that must hold text, or None if it is usable."""
    rule, advice = "be a non-empty string", "Write the whole transcript there."
    if name not in fields:
        return _problem(file, line, name, "be given", "no such field", advice, "missing field")
    value = fields[name]
    if not isinstance(value, str):
        got = records.kind(value)
        return _problem(file, line, name, rule, got, advice, "mistyped field")
    if not value.strip():
        return _problem(file, line, name, rule, "an empty string", advice, "empty field")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        got = f"a lone surrogate at character {error.start}"
        return _problem(
            file, line, name, "be valid Unicode", got, "Repair the escape.", "invalid Unicode"
        )
    return None


def _problem(
    file: str, line: int, subject: str, rule: str, got: str, advice: str, reason: str
) -> DataError:
    return records.problem(subject, rule, got, file=file, line=line, advice=advice, reason=reason)


def _check_share(errors: list[DataError], read: int, limit: float, option: str) -> None:
    if len(errors) <= limit * read:
        return
    counts = collections.Counter(error.reason for error in errors)
    reasons = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    raise DataError(
        f"{errors[0]} In all {len(errors)} of {read} rows ({reasons}), above {option} = {limit}.",
        errors[0].reason,
    )


def _held_out(rows: list[Preference], split: str, holdout: float) -> list[Preference]:
    """Returns the rows of one side; conversations with one opening are never parted."""

    def opening(row: Preference) -> str:
        first = [turn for turn in row.prompt[:2] if turn.role != chat.ASSISTANT]
        return hashlib.sha256(repr(first).encode()).hexdigest()

    openings = [opening(row) for row in rows]
    ranked = sorted(set(openings))
    held = set(ranked[: math.ceil(holdout * len(ranked))])
    return [
        row for row, key in zip(rows, openings, strict=True) if (key in held) == (split == "eval")
    ]
