"""What a run's folder keeps of its data: enough to sample, to export and to judge given rows.

A folder may be moved, and the data and the weights that it was trained from may be gone: its
tokenizer, the layout of its conversations and the sizes of its rows lie in `tokenizer/`.
"""

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

from alignjax.data import corpus as corpora
from alignjax.models.checkpoints import folder as open_weights
from alignjax.models.checkpoints import gguf_io
from alignjax.parallel import processes
from alignjax.runs import caches, experiment, exported_tokenizer, folder
from alignjax.text import chat, chat_format, tokenizer

ABOUT = "about.json"
OWN = "tokenizer.model"  # the file of a tokenizer of our own
SIZES = ("vocab_size", "pad", "eos", "length", "prompt_length")
LISTS = ("kinds", "categories")
LAYOUT = ("template", "pad", "date")


def write(workdir: pathlib.Path, config: experiment.Experiment, corpus: corpora.Corpus) -> None:
    """Keeps a corpus's tokenizer in the folder of a run; once, and in one process."""
    to = workdir / folder.TOKENIZER
    if corpus.speaker is not None:
        processes.only_first(lambda: _write(to, config, corpus))


def _write(to: pathlib.Path, config: experiment.Experiment, corpus: corpora.Corpus) -> None:
    if (to / ABOUT).exists():
        return
    to.mkdir(parents=True, exist_ok=True)
    own = corpus.speaker
    about = {name: getattr(corpus, name) for name in (*SIZES, *LISTS, "steps")}
    if isinstance(own, tokenizer.Tokenizer):
        own.save(to / OWN)
    else:
        data = _naming(config.data)
        how = {name: getattr(data, name, "") for name in LAYOUT}
        tools = {"trained": getattr(own, "trained", ""), "tools": list(getattr(own, "tools", ()))}
        file = _copied(pathlib.Path(data.tokenizer), to) if data is not None else None
        about |= {"layout": {**how, **tools}, "file": file}
    if config.weights and pathlib.Path(config.weights).is_dir():
        about["fields"] = dict(
            open_weights.open_model(config.weights, skip=config.weights_skip).fields or {}
        )
    # The last file to be written: without it nothing is kept.
    partial = to / f"{ABOUT}.partial"
    partial.write_text(json.dumps(about, indent=1))
    partial.replace(to / ABOUT)


def _naming(data: Any) -> Any:
    """The configuration that names the tokenizer: that of the data, or of their first part."""
    parts = getattr(data, "parts", ())
    found = [data, *(() if callable(parts) else parts)]
    return next((own for own in found if getattr(own, "tokenizer", "")), None)


def _copied(source: pathlib.Path, to: pathlib.Path) -> str | None:
    """Copies the files of a tokenizer. The name of the one to open, "" for the folder; None where
    there is none to copy."""
    if source.is_dir():
        names = [name for name in exported_tokenizer.FILES if (source / name).is_file()]
        for name in names:
            shutil.copyfile(source / name, to / name)
        return "" if names else _packed(sorted(source.glob("*.gguf")), to)
    return _packed([source], to)


def _packed(sources: list[pathlib.Path], to: pathlib.Path) -> str | None:
    """A single file; of a GGUF all but its tensors."""
    if len(sources) != 1 or not sources[0].is_file():
        return None
    source = sources[0]
    if gguf_io.is_gguf(source):
        (to / "tokenizer.gguf").write_bytes(gguf_io.without_tensors(source))
        return "tokenizer.gguf"
    shutil.copyfile(source, to / source.name)
    return source.name


def about(workdir: pathlib.Path) -> dict[str, Any]:
    """What is kept of a run beside the tokenizer's files; {} where nothing is."""
    return folder.stored_values(workdir / folder.TOKENIZER / ABOUT)


def corpus_of(
    workdir: pathlib.Path, record: folder.Record, log: Callable[[str], None]
) -> corpora.Corpus:
    """The corpus of a run: its data, or where they are gone what its folder keeps of them.

    `log` takes a line then. Rows of data that are gone are refused when they are asked for.

    Raises:
      ValueError: there is neither.
    """
    stored = about(workdir)
    trained = record.values.get("fingerprints", {}).get("tokenizer")
    try:
        cache = caches.cache_beside(workdir)
        corpus = experiment.make_corpus(record.config.data, lambda line: None, cache)
        if not stored or corpus.fingerprints.get("tokenizer") == trained:
            return corpus
        why = "they have another tokenizer now than the run"
    except (ValueError, OSError) as error:
        if not stored:
            raise
        why = str(error)
    log(f"{workdir}: its own tokenizer is used, and no rows of its data: {why}")
    return _without_rows(workdir, stored, record, why)


def _without_rows(
    workdir: pathlib.Path, stored: dict[str, Any], record: folder.Record, why: str
) -> corpora.Corpus:
    def gone(*_: Any) -> Any:
        raise ValueError(
            f"rows of a run's data must be where its record says; got none for {workdir}: {why} "
            "Put the data back, or ask for what needs no rows of theirs."
        )

    own = _speaker(workdir, stored, record.values["fingerprints"]["tokenizer"])
    lists: dict[str, Any] = {name: tuple(stored[name]) for name in LISTS}
    steps = stored["steps"]
    return corpora.Corpus(
        **{name: stored[name] for name in SIZES},
        **lists,
        steps=None if steps is None else tuple(steps),
        table=gone,
        text=lambda ids: chat.sampled_text(own, ids),
        fingerprints=dict(record.values["fingerprints"]),
        speaker=own,
        conversation=gone,
        tasks=gone,
    )


def _speaker(workdir: pathlib.Path, stored: dict[str, Any], fingerprint: str) -> chat.Speaker:
    place = workdir / folder.TOKENIZER
    own: chat.Speaker
    if "layout" not in stored:
        own = tokenizer.load_tokenizer(place / OWN)
    else:
        layout = dict(stored["layout"])
        if stored["file"] is None:
            raise ValueError(
                f"a run whose data are gone must keep its tokenizer; got {workdir}, whose "
                "tokenizer was no file to copy. Put the data back."
            )
        trained, tools = layout.pop("trained"), tuple(layout.pop("tools"))
        own = chat_format.load_chat_format(place / stored["file"], **layout)
        own = dataclasses.replace(own, trained=trained or own.trained, tools=tools)
    if own.fingerprint != fingerprint:
        raise ValueError(
            f"the tokenizer that a run keeps must be the one it was trained with; got another in "
            f"{place}. Put its files back."
        )
    return own
