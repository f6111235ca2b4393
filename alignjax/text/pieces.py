"""Text of tokens as they come: only whole characters leave."""

import codecs

from alignjax.text import chat

REPLACEMENT = "\ufffd"


def spelled(speaker: chat.Speaker, token: int) -> bytes:
    """The bytes of a token that a model sampled; of one that its tokenizer lacks, U+FFFD's."""
    if token >= speaker.vocab_size:
        return REPLACEMENT.encode()
    return speaker.token_bytes(token)


class Pieces:
    """The text of a growing row of tokens, piece by piece; joined, it is `chat.sampled_text`.

    The bytes of a character may be spread over tokens: they wait until it is whole. What is cut off
    at the end gives U+FFFD.
    """

    def __init__(self, speaker: chat.Speaker, *, within: bool = False) -> None:
        """within: whether the tokens continue a text, so that a space before them is part of it."""
        self._speaker = speaker
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._strips = speaker.starts_with_space and not within

    def add(self, token: int) -> str:
        """The characters that this token completes."""
        own = spelled(self._speaker, token)
        if self._strips and own:
            own, self._strips = own.removeprefix(b" "), False
        return self._decoder.decode(own)

    def end(self) -> str:
        """What is left where no token follows."""
        return self._decoder.decode(b"", final=True)
