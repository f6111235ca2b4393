"""A tokenizer with its layout of conversations, as a value that worker processes can open."""

import dataclasses
import functools
import json
from typing import Any

from alignjax.text import chat, chat_format, tokenizer
from alignjax.text.tokenizers import load


@dataclasses.dataclass(frozen=True)
class Speaking:
    """model: the bytes of our own tokenizer; else path, template, pad, date and tools are of a
    foreign one, tools in JSON."""

    fingerprint: str
    model: bytes = dataclasses.field(default=b"", repr=False)
    path: str = ""
    template: str = ""
    pad: str = ""
    date: str = ""
    tools: str = "[]"

    def open(self) -> chat.Speaker:
        """The tokenizer, opened once in a process.

        Raises:
          ValueError: it is not the one that was meant.
        """
        return _open(self)


NOBODY = Speaking("")  # of recipes that do not tokenise


def speaking(own: chat.Speaker, config: Any = None) -> Speaking:
    """The value of an open tokenizer; a foreign one is that of a configuration of data."""
    if isinstance(own, tokenizer.Tokenizer):
        return Speaking(own.fingerprint, own.model)
    tools = json.dumps(own.tools) if isinstance(own, chat_format.ChatFormat) else "[]"
    how = {name: getattr(config, name) for name in ("template", "pad", "date")}
    return Speaking(own.fingerprint, path=config.tokenizer, tools=tools, **how)


def named(path: str, template: str, pad: str, date: str = "") -> chat.Speaker:
    """The tokenizer of a file or of a model's folder.

    A foreign one comes with its folder's chat template, or `template`; date: as there.
    """
    found = load.load_tokenizer(path)
    if isinstance(found, tokenizer.Tokenizer):
        return found
    return chat_format.load_chat_format(path, template=template, pad=pad, date=date)


@functools.lru_cache(maxsize=2)
def _open(own: Speaking) -> chat.Speaker:
    if own.model:
        return tokenizer.from_bytes(own.model)
    form = chat_format.load_chat_format(own.path, template=own.template, pad=own.pad, date=own.date)
    form = dataclasses.replace(form, tools=tuple(json.loads(own.tools)))
    if form.fingerprint != own.fingerprint:
        raise ValueError(
            f"the tokenizer must stay as it is while data are prepared; got another one "
            f"({own.path}). Run the same command again."
        )
    return form
