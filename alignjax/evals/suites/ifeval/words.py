"""Words and sentences of an answer."""

import re

# Before a full stop that ends no sentence.
_SHORT = re.compile(
    r"mr|mrs|ms|dr|prof|st|jr|sr|inc|ltd|co|vs|etc|no|fig|approx|dept|est|gen|capt|lt|col|sen|rep"
    r"|gov|rev|hon|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|[a-z]|(?:[a-z]\.)+[a-z]",
    re.IGNORECASE,
)
_END = re.compile(r"[.!?]+[\"'”’)\]*_]*(?=\s|$)")
_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"\w+(?:[-'’.&]\w+)*")


def count(text: str) -> int:
    """Words: runs of letters, digits and underscores; two in "well-known"."""
    return len(_WORD.findall(text))


def capitals(text: str) -> int:
    """Words all in capital letters; "WELL-KNOWN" is one."""
    return sum(word.isupper() for word in _TOKEN.findall(text))


def occurrences(text: str, phrase: str) -> int:
    """How often a word or phrase stands in a text as whole words, in any case."""
    own = r"\s+".join(map(re.escape, phrase.split()))
    return len(re.findall(rf"(?<!\w){own}(?!\w)", text, re.IGNORECASE))


def sentences(text: str) -> int:
    """Sentences: what ends in . ! or ? before a capital, a digit, a quote or the end of the text.

    Full stops of initials, of common short forms and of list numbers end none.
    """
    starts, found = 0, 0
    for match in _END.finditer(text):
        before = text[starts : match.start()].rsplit(None, 1)
        word = (before or [""])[-1].lstrip("([\"'*")
        after = text[match.end() :].lstrip()
        if match[0].startswith(".") and len(match[0]) == 1 and after:
            numbered = word.isdigit() and len(before) < 2
            if numbered or _SHORT.fullmatch(word) or after[0].islower():
                continue
        elif after and after[0].islower():
            continue
        found, starts = found + 1, match.end()
    return found + bool(text[starts:].strip())
