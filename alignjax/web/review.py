"""The review pages of a guard: exchanges to judge, and its status. JSON as in `api`."""

import collections
import functools
import math
from collections.abc import Mapping
from typing import Any

from starlette.routing import Route

from alignjax.core import values
from alignjax.evals import estimate
from alignjax.feedback import database
from alignjax.feedback.content import Refusal
from alignjax.feedback.store import exchanges, reviews
from alignjax.serving import review
from alignjax.web import api, app, serve

DAYS = 7  # that the status page tells of
HOUR = exchanges.HOUR


def _shown(service: api.Service, held: reviews.Held | None, rater: int) -> dict[str, Any]:
    """An exchange as its rater may see it: without what the guard says of it."""
    done, left = service.db.read(reviews.progress, rater)
    told: dict[str, Any] = {"progress": {"done": done, "left": left}, "exchange": None}
    if held is None:
        return told
    turns = [{"role": role, "text": text} for role, text in held.turns]
    return told | {"exchange": held.id, "turns": turns, "language": held.language}


def _next(service: api.Service, rater: int, sent: dict[str, Any]) -> dict[str, Any]:
    held = service.db.write(reviews.next_for, rater, service.clock.now())
    return _shown(service, held, rater)


def _submit(
    categories: tuple[str, ...], service: api.Service, rater: int, sent: dict[str, Any]
) -> dict[str, Any]:
    stored = service.db.write(
        reviews.submit, sent.get("exchange"), rater, sent.get("key", ""), sent.get("labels"),
        service.clock.now(), categories=categories, note=sent.get("note", ""),
        seconds=sent.get("seconds"),
    )  # fmt: skip
    return {"stored": stored}


def _undo(service: api.Service, rater: int, sent: dict[str, Any]) -> dict[str, Any]:
    held = service.db.write(reviews.undo, rater, service.clock.now())
    if held is None:
        raise Refusal("there must be an exchange to go back to; got none.", 404)
    return _shown(service, held, rater)


def status(c: Any, now: float, baseline: float) -> dict[str, Any]:
    """What the status page shows: load, blocks, drift and the queue of the last days."""
    since = now - DAYS * 24 * HOUR
    counted = exchanges.counts(c, since)
    own = [one for one in counted if not one.category]
    first = int(since) // HOUR + 1
    load: collections.Counter[int] = collections.Counter()
    for one in own:
        load[one.hour] += one.size
    blocks: collections.Counter[tuple[str, str]] = collections.Counter()
    for one in counted:
        if one.category:
            blocks[one.category, one.language] += one.size
    start = first * HOUR  # counts are of whole hours
    taken = list(exchanges.reviewed(c, start))
    size = sum(one.size for one in own if one.hour >= first)
    found = review.summarise(taken, size, baseline)
    oldest = min((one.created for one in taken if one.turns and one.labels is None), default=now)
    return {
        "load": [
            {"hour": hour * HOUR, "count": load[hour]}
            for hour in range(first, int(now) // HOUR + 1)
        ],
        "strata": dict(_sum(own, "stratum")),
        "languages": dict(_sum(own, "language")),
        "blocks": [
            {"category": name, "language": language, "count": count}
            for (name, language), count in sorted(blocks.items())
        ],
        "queue": {
            "waiting": exchanges.waiting(c), "judged": found.judged,
            "oldest_hours": (now - oldest) / HOUR,
        },
        "rates": {name: _interval(one) for name, one in found.rates._asdict().items()},
        "drift": {
            "baseline": _number(baseline), "evidence": _number(found.drift),
            "limit": math.log(1 / review.LEVEL), "found": bool(found.has_drifted),
        },
    }  # fmt: skip


def _sum(counted: list[exchanges.Count], name: str) -> collections.Counter[str]:
    found: collections.Counter[str] = collections.Counter()
    for one in counted:
        found[getattr(one, name)] += one.size
    return found


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _interval(own: estimate.Estimate) -> dict[str, Any]:
    low, high = (min(max(own.value + sign * 1.96 * own.se, 0.0), 1.0) for sign in (-1, 1))
    return {"value": _number(own.value), "low": _number(low), "high": _number(high), "n": own.n}


def _status(
    baseline: float, service: api.Service, rater: int, sent: dict[str, Any]
) -> dict[str, Any]:
    return service.db.read(status, service.clock.now(), baseline)


def categories_of(db: database.Database, named: str) -> tuple[str, ...]:
    """The categories to judge: those named, else those of the recorded exchanges.

    Raises:
      ValueError: none is known.
    """
    found = [name.strip() for name in named.split(",") if name.strip()]
    if not found:
        found = sorted({name for one in db.read(_all) for name in one.scores})
    if not found or len(found) > 9 or len(set(found)) < len(found):
        got = ", ".join(found) or "none"
        raise ValueError(
            f"--categories must be 1 to 9 different names; got {got} (review). "
            "Name those of the guard."
        )
    return tuple(found)


def _all(c: Any) -> list[Any]:
    return list(exchanges.reviewed(c))


def served(named: str, baseline: float) -> serve.Served:
    """What `alignjax review` serves. baseline: share of unsafe exchanges; NaN is not known."""
    if not math.isnan(baseline):
        values.check_number("--baseline", baseline, above=0, below=1)

    def parts(service: api.Service) -> tuple[list[app.Page], list[Route]]:
        categories = categories_of(service.db, named)
        reads: dict[str, api.Answer] = {"review/status": functools.partial(_status, baseline)}
        writes: dict[str, api.Answer] = {
            "review/next": _next,
            "review/submit": functools.partial(_submit, categories),
            "review/undo": _undo,
        }

        def context() -> Mapping[str, Any]:
            return {"categories": categories}

        pages = [app.Page("/", "review.html", context), app.Page("/status", "status.html", dict)]
        return pages, api.routes(service, reads, writes)

    def check(db: database.Database, place: str) -> None:
        categories_of(db, named)

    return serve.Served("review", parts, check)
