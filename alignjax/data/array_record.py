"""Records of a prepared TFDS folder in array_record format, read without TensorFlow.

Only this format is readable without TensorFlow; the others are refused by name before
tensorflow_datasets could try to import it.
"""

import collections.abc
import functools
import json
import pathlib

from alignjax.data import records


def files(folder: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """Returns the regular files of the folder, sorted. Raises: DataError for a link out of it."""
    root, regular = folder.resolve(), []
    for file in sorted(folder.iterdir()):
        if not file.resolve().is_relative_to(root):
            raise _problem(folder / file.name, "stay inside its folder", "a link that leaves it")
        if file.is_file():
            regular.append(file)
    return tuple(regular)


Rows = collections.abc.Iterator[tuple[int, records.Fields | records.DataError]]


def splits(folder: pathlib.Path) -> dict[str, collections.abc.Callable[[], Rows]]:
    """Returns, for each split, a function that iterates over (record number from 1, fields).

    Bytes are decoded as UTF-8; a record with invalid bytes is yielded as a DataError.
    Raises: DataError for another format, or a folder that does not load.
    """
    try:
        info = json.loads((folder / "dataset_info.json").read_text("utf-8"))
        stored = info.get("fileFormat", "tfrecord")
        names = [split["name"] for split in info["splits"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise _problem(
            folder / "dataset_info.json", "be the information of a TFDS folder", "something else"
        ) from None
    if stored != "array_record":
        raise _problem(folder, "be prepared with file_format='array_record'", stored)
    return {name: functools.partial(_read, folder, name) for name in names}


def _read(folder: pathlib.Path, split: str) -> Rows:
    import tensorflow_datasets

    try:
        builder = tensorflow_datasets.builder_from_directory(str(folder))
        source = builder.as_data_source(split=split)
        count = len(source)
    except Exception as error:  # whatever TFDS raises, the user's data is at fault
        raise _problem(folder, "load as a TFDS data source", type(error).__name__) from None
    for index in range(count):
        try:
            record = source[index]
        except Exception as error:  # array_record reports damage by several types
            raise _problem(
                folder, "be readable to its end", f"{type(error).__name__} at record {index + 1}"
            ) from None
        yield index + 1, _decode(record, str(folder / split), index + 1)


def _decode(record: records.Fields, where: str, number: int) -> records.Fields | records.DataError:
    fields = {}
    for name, value in record.items():
        try:
            fields[name] = value.decode("utf-8") if isinstance(value, bytes) else value
        except UnicodeDecodeError as error:
            return records.problem(
                name, "be UTF-8", f"an invalid byte at offset {error.start}", file=where,
                line=number, advice="Prepare the folder again from UTF-8.", reason="invalid UTF-8",
            )  # fmt: skip
    return fields


def _problem(path: pathlib.Path, rule: str, got: str) -> records.DataError:
    return records.problem(
        "TFDS folder", rule, got, file=str(path), reason="TFDS",
        advice="Prepare it again, or give .jsonl files.",
    )  # fmt: skip
