"""A guard as a server has it: described, behind its thresholds, its verdicts recorded if asked."""

import contextlib
from collections.abc import Iterator

from alignjax.feedback import database, exchanges
from alignjax.serving import described_guards, guarding, guards, languages, review, thresholds


@contextlib.contextmanager
def opened(
    guard: str,
    limits: str,
    *,
    place: str = "",
    plan: exchanges.Plan | None = None,
    keep_text: bool = False,
) -> Iterator[guarding.Guard]:
    """The guard of a server; several, by comma, stand in series.

    Args:
      guard: runs of guards, or files that describe them. limits: as many files of thresholds.
      place: the database of exchanges for review; "" records nothing. plan: which are reviewed.
      keep_text: whether their text is stored.

    Raises:
      ValueError: a guard or its thresholds are not to be read, or several are to be recorded.
    """
    paths, files = ([one.strip() for one in text.split(",")] for text in (guard, limits))
    if len(paths) != len(files) or (place and len(paths) > 1):
        raise ValueError(
            f"guards must have a file of thresholds each, and be one to be recorded; got "
            f"{len(paths)} guards and {len(files)} files (guard)."
        )
    with contextlib.ExitStack() as stack:
        own = []
        for path, file in zip(paths, files, strict=True):
            read = thresholds.read(file)
            detector = stack.enter_context(described_guards.opened(described_guards.read(path)))
            own.append(guards.Guard(detector, read, language=languages.of(read)))
        if not place:
            yield own[0] if len(own) == 1 else guards.Series(own)
            return
        db = stack.enter_context(database.opened(place, new=True))
        from alignjax.feedback.store import queries

        clock = database.Clock(db.read(queries.latest))
        plan = plan or exchanges.Plan()
        yield review.Recorded(own[0], db, plan, clock, keep_text=keep_text)
