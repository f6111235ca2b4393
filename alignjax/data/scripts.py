"""Scripts of writing in a text, by its letters: Latin, Cyrillic, Han, ..."""

import collections
import functools
import unicodedata

SAMPLE = 2000  # characters of a text that are looked at
_NONE = ("MODIFIER", "MASCULINE", "FEMININE", "UNNAMED")  # letters of no script of their own
_JOINED = {"CJK": "HAN", "HIRAGANA": "JAPANESE KANA", "KATAKANA": "JAPANESE KANA"}


def count(text: str, counts: collections.Counter[str]) -> None:
    """Adds a text's letters by script."""
    for character, number in collections.Counter(text[:SAMPLE]).items():
        script = of(character)
        if script:
            counts[script] += number


@functools.lru_cache(maxsize=65536)
def of(character: str) -> str:
    """The script of a letter; "" of anything else. It is the first word of its Unicode name."""
    if not character.isalpha():
        return ""
    word = unicodedata.name(character, "UNNAMED").partition(" ")[0].partition("-")[0]
    return "" if word in _NONE else _JOINED.get(word, word).capitalize()
