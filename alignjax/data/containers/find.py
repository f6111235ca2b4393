"""The parts of a path: which container each file is, and which split it belongs to."""

import fnmatch
import os

from alignjax.data import records, storage
from alignjax.data.containers import arrow, json_file, lines, part, table, text, tfds

SUFFIXES: dict[str, type[part.Part]] = {
    ".jsonl": lines.JsonLines,
    ".ndjson": lines.JsonLines,
    ".json": json_file.JsonFile,
    ".csv": table.Csv,
    ".tsv": table.Csv,
    ".parquet": arrow.Parquet,
    ".arrow": arrow.Arrow,
    ".txt": text.TextFile,
}
COMPRESSED = (".gz", ".zst")  # of containers of text
WHOLE = (".parquet", ".arrow")  # compressed within
SPLITS = ("train", "eval", "all")


def suffix(name: str) -> str:
    """The suffix that tells the container, "" for no data file."""
    name = name.lower()
    for ending in COMPRESSED:
        if name.endswith(ending):
            inner = os.path.splitext(name.removesuffix(ending))[1]
            return inner if inner in SUFFIXES and inner not in WHOLE else ""
    ending = os.path.splitext(name)[1]
    return ending if ending in SUFFIXES else ""


def parts(path: str | os.PathLike[str], names: str = "*") -> list[part.Part]:
    """The parts of a folder whose names match, sorted, or of the one file.

    A folder may be one of TFDS, of `datasets.save_to_disk`, or of files of any container.

    Raises:
      DataError: there is none, one is no regular file or leaves the folder, schemas differ.
    """
    place = str(path)
    if not storage.exists(place):
        raise records.problem(
            "data path", "exist", "nothing there", file=place, reason="missing path",
            advice="Check the spelling, or download the data first.",
        )  # fmt: skip
    found = _folder(place, names) if storage.is_folder(place) else [_file(place)]
    part.check_schemas(found)
    return found


def _folder(path: str, names: str) -> list[part.Part]:
    special = arrow.saved_parts(path)
    if special is None and storage.exists(storage.join(path, tfds.INFO)):
        special = tfds.parts(path)
    if special is not None:
        return _named(special, names) or _none(path, names)
    files = [file for file in storage.listed(path, names) if suffix(storage.base(file))]
    kinds = sorted({suffix(storage.base(file)) for file in files})
    if ".jsonl" in kinds:  # others beside them describe the rows
        files, kinds = [f for f in files if suffix(storage.base(f)) == ".jsonl"], [".jsonl"]
    if not files:
        return _none(path, names)
    if len(kinds) > 1:
        raise records.problem(
            "data folder", "hold files of one container", " and ".join(kinds), file=path,
            reason="mixed containers", advice="Select files by data.names, such as '*.parquet'.",
        )  # fmt: skip
    storage.check_links(path, files)
    return [_file(file) for file in files]


def _named(special: list[part.Part], names: str) -> list[part.Part]:
    return [own for own in special if fnmatch.fnmatch(own.name, names)]


def _none(path: str, names: str) -> list[part.Part]:
    raise records.problem(
        "data folder", f"hold files {', '.join(SUFFIXES)} (or .gz, .zst of them) named {names!r}",
        "none", file=path, reason="no files", advice="Give the folder that holds them.",
    )  # fmt: skip


def _file(path: str) -> part.Part:
    name = storage.base(path)
    if not storage.is_remote(path) and not os.path.isfile(path):
        got = "a folder" if os.path.isdir(path) else "something that is no regular file"
        raise records.problem(
            "data file", "be a regular file", got, file=path, reason="not a file",
            advice="Give a file, such as .jsonl.",
        )  # fmt: skip
    kind = SUFFIXES[suffix(name) or ".jsonl"]  # a file without a known suffix is tried as lines
    return kind(name, path, (path,))


def split_parts(
    path: str | os.PathLike[str], *, split: str, names: str = "*"
) -> tuple[list[part.Part], bool]:
    """(the parts to read for a split, whether names alone decide what belongs to it).

    Raises:
      DataError: a path without data, or names that leave the split open.
    """
    return select(parts(path, names), split, str(path))


def select(parts: list[part.Part], split: str, path: str) -> tuple[list[part.Part], bool]:
    """The same of parts that are known."""
    splits = {own.split for own in parts}
    if split == "all":
        return parts, True
    if "eval" not in splits:
        return parts, False
    if None in splits:
        unnamed = next(own.name for own in parts if own.split is None)
        raise records.problem(
            "data file", "say train or eval in its name when another file does", repr(unnamed),
            file=path, advice="Rename it, or select files by `names`.", reason="split",
        )  # fmt: skip
    chosen = [own for own in parts if own.split == split]
    if not chosen:
        raise records.problem(
            "data", f"hold a file named for split {split!r}", "only files of the other split",
            file=path, advice="Add such a file, or ask for split 'all'.", reason="split",
        )  # fmt: skip
    return chosen, True
