"""The language of a conversation, for thresholds of its own: by the package langdetect, seeded."""

from collections.abc import Collection, Sequence

from alignjax.serving import guards, thresholds
from alignjax.text import chat, languages

SAMPLE = 2000  # characters of a conversation's end that are looked at


def detector(known: Collection[str]) -> guards.Language:
    """Tells which of the known languages what users wrote is in, by its most probable language.

    All languages together ("*") where that is none of them, or there is no letter. The same text
    has the same language.

    Raises:
      ValueError: langdetect is not installed.
    """
    languages.check_installed("thresholds by language", "guard")

    def language(turns: Sequence[chat.Turn]) -> str:
        said = "\n".join(turn.text for turn in turns if turn.role == chat.HUMAN)
        name = languages.language(said[-SAMPLE:]).partition("-")[0]
        return name if name in known else thresholds.ALL

    return language


def of(limits: thresholds.Thresholds) -> guards.Language:
    """The language by which thresholds are chosen: of all together where there are no others."""
    known = set(limits.by) - {thresholds.ALL}
    return detector(known) if known else guards.unknown
