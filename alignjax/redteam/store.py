"""Hits as rows of a database of judgements: what the target said, and what it should have said."""

from collections.abc import Mapping, Sequence
from typing import Any

from alignjax.feedback import content, database, imports, project
from alignjax.redteam import attack, transforms

REFUSAL = "I can't help with that."


def items_of(
    outcomes: Sequence[attack.Outcome], source: Mapping[str, Any], system: str = ""
) -> tuple[list[content.Item], int]:
    """(one item a hit, the target's answer its only candidate, equal ones once; how many could not
    be stored, such as answers with NUL).

    Raises:
      ValueError: a hit comes from a transform that is held out.
    """
    kept, left_out = dict[str, content.Item](), 0
    for outcome in outcomes:
        for attempt in outcome.attempts:
            if not attempt.is_hit:
                continue
            _check_train(attempt)
            turns = [("system", system)] if system else []
            turns += [(turn.role, turn.text) for turn in attempt.turns]
            own = {
                **source, "attack": attempt.attack, "goal": attempt.goal, "note": attempt.note,
                "score": attempt.score,
            }  # fmt: skip
            item = content.Item(tuple(turns), (content.Candidate(attempt.answer),), source=own)
            try:
                kept.setdefault(item.id, content.checked(item, f"goal {attempt.goal}"))
            except content.Refusal:
                left_out += 1
    return list(kept.values()), left_out


def _check_train(attempt: attack.Attempt) -> None:
    names = [word.partition("(")[0] for word in attempt.note.split("+")]
    held = [name for name in names if name in transforms.KINDS and transforms.KINDS[name].held_out]
    if held:
        raise ValueError(
            f"hits of transforms that are held out must not be stored to train on; got "
            f"{', '.join(held)} (--transforms). Leave --database or those transforms out."
        )


def write(db: database.Database, pairs: Sequence[tuple[content.Item, str]], judge: str) -> int:
    """How many items were new. Each is judged by a rewrite, what should have been said: harvested,
    that is a demonstration, and a pair with it before what was said.

    pairs: (an item of one answer, the better one).
    """
    from alignjax.feedback.store import items as stored
    from alignjax.feedback.store import queries, verdicts

    clock = database.Clock(db.read(queries.latest))
    own = db.read(queries.settings)
    if db.read(queries.totals)["item"] == 0:
        db.write(stored.set_project, own, clock.now())
    told = {"attack": True, "judge": judge}
    rater = db.write(verdicts.rater, f"red team, {judge}", told, clock.now())
    seen = db.read(verdicts.seen, rater)
    fresh = {
        item.id: (item, better) for item, better in pairs
        if item.id not in seen and item.candidates[0].text != better
    }  # fmt: skip
    for part in imports.batches(iter(fresh.values()), stored.BATCH):
        said = [verdicts.Verdict(item.id, 1, {"answer": 0, "text": text}) for item, text in part]
        db.write(stored.add_items, [item for item, _ in part], own, clock.now())
        db.write(verdicts.add, rater, said, own, 0.0, clock.now(), project.REWRITE)
    return len(fresh)
