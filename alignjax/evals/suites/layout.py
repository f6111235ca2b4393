"""How a conversation becomes the ids that a model reads: by its chat template, or as plain text."""

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignjax.evals.suites import record
from alignjax.text import chat, chat_format
from alignjax.text.tokenizers import interface

HUMAN, ASSISTANT, BETWEEN = "Q: ", "A:", "\n\n"  # of the plain layout
OWN = "alignjax: a marker before each turn"


class Layout(NamedTuple):
    """A tokenizer with its template, or a tokenizer for plain text; system: the prompt, or "".

    Rows of a suite become turns of people and the assistant only; the template's control tokens
    and the system prompt are never written by them.
    """

    speaker: Any
    system: str = ""
    plain: bool = False

    @property
    def tokenizer(self) -> interface.TextTokenizer:
        """Without its template."""
        own = self.speaker
        return own.tokenizer if isinstance(own, chat_format.ChatFormat) else own

    def prompt(self, turns: record.Turns) -> list[int]:
        """The ids up to where the assistant speaks."""
        if self.plain:
            return self.start(self.plain_text(turns))
        system = [chat.Turn(chat.SYSTEM, self.system)] if self.system else []
        ids, _ = chat.encode_chat(self.speaker, [*system, *turns], generation_prompt=True)
        return ids

    def plain_text(self, turns: record.Turns) -> str:
        """The same as text, of the plain layout."""
        said = [f"{HUMAN}{t.text}\n" if t.role == chat.HUMAN else f"{ASSISTANT} {t.text}{BETWEEN}"
                for t in turns]  # fmt: skip
        return (self.system + BETWEEN if self.system else "") + "".join(said) + ASSISTANT

    def start(self, text: str) -> list[int]:
        """The ids of a text that starts a document."""
        return interface.document_start(self.tokenizer, text)

    def continuation(self, text: str, before: Sequence[int]) -> list[int]:
        """The ids of an answer's text behind a prompt's."""
        return self.behind(f" {text}" if self.plain else text, before)

    def behind(self, text: str, before: Sequence[int]) -> list[int]:
        """The ids of a text behind others."""
        special = not before or before[-1] in self.tokenizer.special.values()
        return self.tokenizer.encode(text, interface.SPECIAL if special else interface.TEXT)

    def shown(self, ids: Sequence[int]) -> str:
        """The text of ids with the names of control tokens, which `decode` leaves out."""
        names = {number: name for name, number in self.tokenizer.special.items()}
        texts = []
        for control, run in itertools.groupby(ids, key=lambda own: names.get(own)):
            own = list(run)
            texts.append(self.tokenizer.decode(own) if control is None else control * len(own))
        return "".join(texts)

    def answer(self, ids: Sequence[int]) -> str:
        """The text of ids that a model sampled; in the plain layout up to the next question."""
        text = chat.sampled_text(self.speaker, ids)
        return text.partition(f"\n{HUMAN.strip()}")[0].strip() if self.plain else text

    @property
    def eos(self) -> int:
        """At which an answer ends; -1 where a plain text's tokenizer has none."""
        own = self.tokenizer.eos_id if self.plain else self.speaker.eos_id
        return -1 if own is None else own

    @property
    def ends(self) -> tuple[int, ...]:
        """All ids at which an answer ends, of which `eos` is the first."""
        return (self.eos,) if self.plain else self.speaker.ends

    @property
    def pad(self) -> int:
        """What stands behind rows; masks go by lengths."""
        own = self.tokenizer.pad_id
        return max(self.eos, 0) if own is None else own

    @property
    def hashes(self) -> Mapping[str, str]:
        """sha256 in hex of the tokenizer, the template and the system prompt."""
        template = OWN
        if self.plain:
            bos = self.tokenizer.starts_with_bos
            template = f"plain {HUMAN!r} {ASSISTANT!r} {BETWEEN!r} {bos}"
        elif isinstance(self.speaker, chat_format.ChatFormat):
            template = self.speaker.layout
        own = {"template": digest(template), "system": digest(self.system)}
        return {"tokenizer": self.tokenizer.fingerprint, **own}


def digest(text: str) -> str:
    """sha256 in hex of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def bucket(length: int, most: int, least: int = 32) -> int:
    """The power of two that holds a length, at most `most`: few lengths, so few programs."""
    return min(max(2 ** math.ceil(math.log2(max(length, 1))), least), most)
