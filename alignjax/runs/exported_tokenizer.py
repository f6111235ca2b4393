"""The tokenizer of an exported model: its files, where answers end, and the template trained with.

What a folder cannot hold is said, so that nobody serves a model with another layout than it knows.
"""

import json
import pathlib
import shutil
from typing import Any

from alignjax.core import untrusted
from alignjax.data import corpus as corpora
from alignjax.text import chat_format, tokenizer
from alignjax.text.tokenizers import load

# Files of the tokenizer in a model folder.
FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    load.GENERATION,
)
TEMPLATES = ("chat_template.jinja", "chat_template.json")
CONFIG = "tokenizer_config.json"


def write(
    data: Any,
    corpus: corpora.Corpus,
    weights: str,
    to: pathlib.Path,
    own: pathlib.Path | None = None,
) -> list[str]:
    """Writes what the data's rows were made with beside a model; returns lines to tell.

    data: the run's configuration of data. weights: where the run's weights came from, or "". own:
    where the run keeps the files of its tokenizer, whatever became of the folder they came from.
    """
    speaker = corpus.speaker
    if speaker is None:
        return ["without a tokenizer: its data are ids"]
    if isinstance(speaker, tokenizer.Tokenizer):
        speaker.save(to / "tokenizer.model")
        return [
            "tokenizer.model is AlignJAX's own, with its own layout of chats; no chat template "
            "for transformers is written"
        ]
    named = [getattr(data, "tokenizer", ""), weights]
    places = [*([] if own is None else [own]), *(pathlib.Path(n) for n in named if n)]
    source = next((place for place in places if _has_files(place)), None)
    names = [] if source is None else [n for n in FILES if (source / n).is_file()]
    if source is None or not names:
        return [f"without its tokenizer, which is no folder's ({named[0] or weights}): keep it"]
    for name in names:
        shutil.copyfile(source / name, to / name)
    _write_ends(corpus.ends, to)
    return [f"with its tokenizer, {source}", *_template(data, speaker, to)]


def _has_files(folder: pathlib.Path) -> bool:
    return any((folder / name).is_file() for name in FILES)


def ids(corpus: corpora.Corpus) -> dict[str, int]:
    """The fields of a `config.json` that name the special tokens of our own tokenizer."""
    own = corpus.speaker
    if not isinstance(own, tokenizer.Tokenizer):
        return {}
    return {"bos_token_id": own.bos_id, "eos_token_id": own.eos_id, "pad_token_id": own.pad_id}


def _write_ends(ends: tuple[int, ...], to: pathlib.Path) -> None:
    """All ids at which the trained answers end, beside what the folder says of sampling."""
    file = to / load.GENERATION
    fields = untrusted.read_object(file, untrusted.CONFIG) if file.exists() else {}
    stated = fields.get("eos_token_id")
    if list(ends) != (stated if isinstance(stated, list) else [stated]):
        fields["eos_token_id"] = list(ends) if len(ends) > 1 else ends[0]
        file.write_text(json.dumps(fields, indent=2) + "\n")


def _template(data: Any, speaker: chat_format.ChatFormat, to: pathlib.Path) -> list[str]:
    """Takes away a template that the run was not trained with, and says so."""
    name = getattr(data, "template", "")
    if not name:
        return []
    for file in TEMPLATES:
        (to / file).unlink(missing_ok=True)
    config = to / CONFIG
    fields = untrusted.read_object(config, untrusted.CONFIG) if config.exists() else {}
    fields.pop("chat_template", None)
    names = {token: own for own, token in speaker.special.items()}
    fields["eos_token"] = names[speaker.eos_id]
    config.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n")
    return [
        f"trained with the template {name}, of which there is no Jinja to write: ask it with "
        f"--template={name}, or lay conversations out alike"
    ]
