"""Preference pairs of transcripts, from files of any container.

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
import hashlib
import math
import os
import typing

from alignjax.data import containers, records, storage
from alignjax.text import chat

DataError = records.DataError
HOLDOUT = 0.05  # share of conversations kept for "eval" where names do not say
SPLITS = ("train", "eval", "all")
DUPLICATE = "duplicate row"
UNUSABLE = (chat.EQUAL, chat.PROMPTS_DIFFER, chat.NO_ANSWER, chat.EMPTY_ANSWER, DUPLICATE)
Seen = dict[str, set[typing.Any]]  # keys of earlier rows: digests ("rows") and fields ("ids")


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


def read_preferences(
    path: str | os.PathLike[str],
    *,
    split: str,
    names: str = "*",
    holdout: float = HOLDOUT,
    on_bad_row: str = "error",
    max_bad_share: float = 0.01,
    max_unusable_share: float = 0.02,
) -> Preferences:
    """Returns the preference pairs of a split.

    Args:
      path: a folder of files with fields `chosen` and `rejected` (hh-rlhf transcripts), one such
        file, or a folder of TFDS or of `datasets.save_to_disk` (see `containers`).
      split: "train", "eval" or "all". If some file is named for evaluation, names decide;
        otherwise `holdout` of the conversations, at least one, are kept for "eval".
      names: glob on file names that selects a part of a folder.
      on_bad_row: "error" stops at the first broken row; "skip" counts it.
      max_bad_share: share of rows in [0, 1] that "skip" may skip.
      max_unusable_share: share of rows in [0, 1] that may be unusable as pairs.
    Raises: DataError (a ValueError) in one line that names file, line, field and rule.
    """
    _check_options(split, holdout, on_bad_row, max_bad_share, max_unusable_share)
    parts, named = containers.split_parts(path, split=split, names=names)
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
    return Preferences(
        rows=tuple(rows),
        fingerprint=fingerprint(parts, named, names, split, holdout),
        read=read,
        dropped=dict(collections.Counter(error.reason for error in errors)),
    )


def fingerprint(
    parts: collections.abc.Sequence[containers.Part],
    named: bool,
    names: str,
    split: str,
    holdout: float = HOLDOUT,
    content: typing.Callable[[str], str] | None = None,
) -> str:
    """What tells the rows of a split: the files' contents and the selection.

    content: file -> its digest, where these are known from before.
    """
    files = dict.fromkeys(file for part in parts for file in part.files)
    selection = storage.fingerprint(files, content)
    selection += names if named else f"{names} {split} {holdout!r}"
    return hashlib.sha256(selection.encode()).hexdigest()


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


def _row(file: str, line: int, fields: records.Fields, seen: Seen) -> Preference | DataError:
    error = texts_problem(file, line, fields)
    if error is not None:
        return error
    if "id" in fields:
        key = repr(fields["id"])
        if key in seen["ids"]:
            return _problem(
                file, line, "id", "be unique", "an id seen before", "Renumber.", "duplicate id"
            )
        seen["ids"].add(key)
    row = preference(file, line, fields)
    if isinstance(row, DataError):
        return row
    digest = hashlib.sha256(content(row).encode()).digest()
    if digest in seen["rows"]:
        got, advice = "the pair of an earlier row", "Drop the row."
        return _problem(file, line, "row", "differ from all others", got, advice, DUPLICATE)
    seen["rows"].add(digest)
    return row


def texts_problem(file: str, line: int, fields: records.Fields) -> DataError | None:
    """The error of a row without usable texts."""
    errors = (text_problem(file, line, name, fields) for name in ("chosen", "rejected"))
    return next((error for error in errors if error is not None), None)


def preference(file: str, line: int, fields: records.Fields) -> Preference | DataError:
    """The pair of a row whose texts are usable."""
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
    return Preference(*pair, file, line)


def content(row: Preference) -> str:
    """What two equal rows have in common."""
    return repr(chat.Pair(*row[:4]))


def told(row: Preference) -> str:
    """What must not stand in training and evaluation: both answers, whichever is better."""
    return repr((row.prompt, sorted(map(repr, (row.chosen, row.rejected)))))


def opening(row: Preference) -> str:
    """What rows share that a hold-out must not part."""
    return repr([turn for turn in row.prompt[:2] if turn.role != chat.ASSISTANT])


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
    openings = [hashlib.sha256(opening(row).encode()).hexdigest() for row in rows]
    ranked = sorted(set(openings))
    held = set(ranked[: math.ceil(holdout * len(ranked))])
    return [
        row for row, key in zip(rows, openings, strict=True) if (key in held) == (split == "eval")
    ]
