"""The interface of every tokenizer, and the rule that tells control tokens from text.

Text never becomes a control token: `encode` gives the ids of the characters, whatever they spell.
Control ids are placed by name, through `special`, by code that lays out conversations.
"""

import collections.abc
import re
import typing

# What stands before a text. Some vocabularies put a space before a text that starts a document
# or follows a control token; none does within a text.
NOTHING, SPECIAL, TEXT = "nothing", "special", "text"
PLACES = (NOTHING, SPECIAL, TEXT)

# Model folders mark most control tokens as special, but not all: Qwen lists <think> and
# DeepSeek <｜User｜> as ordinary added tokens, SentencePiece files of Gemma <start_of_turn> as a
# user-defined piece. These names are control tokens wherever they stand in a vocabulary.
_SHAPE = re.compile(r"<\|[^|<>\s]+\|>|<｜[^｜<>\s]+｜>|<unused\d+>")
_NAMES = frozenset((
    "<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>", "<mask>", "<start_of_turn>",
    "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>", "<think>",
    "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "[INST]",
    "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
    "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[IMG]", "[IMG_END]", "[IMG_BREAK]",
    "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
))  # fmt: skip


class TextTokenizer(typing.Protocol):
    """What the data code asks of a tokenizer.

    fingerprint: sha256 in hex of all that the ids depend on. vocab_size: the largest id plus one.
    pad_id, bos_id, eos_id: None where the model has none; pad may equal eos, since masks come
    from lengths and roles. special: name -> id of every control token. starts_with_bos: whether the
    model's own files say that a document begins with BOS.
    """

    @property
    def fingerprint(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def pad_id(self) -> int | None: ...
    @property
    def bos_id(self) -> int | None: ...
    @property
    def eos_id(self) -> int | None: ...
    @property
    def starts_with_space(self) -> bool: ...
    @property
    def starts_with_bos(self) -> bool: ...
    @property
    def special(self) -> collections.abc.Mapping[str, int]: ...

    def encode(self, text: str, after: str = NOTHING) -> list[int]: ...

    def encode_many(
        self, texts: collections.abc.Sequence[str], after: str = NOTHING
    ) -> list[list[int]]: ...

    def decode(self, ids: collections.abc.Iterable[int]) -> str: ...

    def token_bytes(self, token: int) -> bytes: ...


def is_control_name(name: str) -> bool:
    """Whether a token of this name is a control token even where its file does not say so."""
    return name in _NAMES or _SHAPE.fullmatch(name) is not None


def document_start(tokenizer: TextTokenizer, text: str, bos: bool | None = None) -> list[int]:
    """The ids of a text that starts a document.

    bos: whether BOS stands before it, where the model has one; None: as its files say.
    """
    if tokenizer.bos_id is None or not (tokenizer.starts_with_bos if bos is None else bos):
        return tokenizer.encode(text)
    return [tokenizer.bos_id, *tokenizer.encode(text, after=SPECIAL)]


def check_text(text: str) -> None:
    """Raises ValueError unless the text is a str of valid Unicode (no lone surrogate)."""
    if not isinstance(text, str):
        raise ValueError(
            f"text must be a str; got {type(text).__name__} (encode). Decode bytes as UTF-8 first."
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text must be valid Unicode; got a lone surrogate at character {error.start} "
            "(encode). Repair or drop the text."
        ) from None


def check_place(after: str) -> None:
    """Raises ValueError unless `after` is one of PLACES."""
    if after not in PLACES:
        raise ValueError(
            f"after must be one of {', '.join(PLACES)}; got {after!r} (encode). Name what stands "
            "before the text."
        )
