"""A guard at work: what it says before an answer and of each window of it, and what follows."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

from alignjax.core import shapes
from alignjax.serving import guarding
from alignjax.text import chat

BLOCK, ALLOW = "block", "allow"
REFUSAL = "I can't help with that."


class Incident(NamedTuple):
    """A text that was blocked, or that the guard failed on. where: "before" or "window"; text: of
    the answer so far."""

    where: str
    turns: tuple[chat.Turn, ...]
    text: str
    verdict: guarding.Verdict
    model: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moderation:
    """guard: None lets all through. window: tokens between two questions. on_error: whether a
    text that the guard fails on is blocked. refusal: what is answered in place of what is blocked.
    report: takes incidents, in the thread that asked."""

    guard: guarding.Guard | None = None
    window: int = guarding.WINDOW
    on_error: str = BLOCK
    refusal: str = REFUSAL
    report: Callable[[Incident], None] = lambda incident: None

    def validate(self) -> None:
        """Raises ValueError where a value is not allowed."""
        shapes.check_number("--guard_window", self.window, minimum=1)
        shapes.check_choice("--on_guard_error", self.on_error, (BLOCK, ALLOW))

    def before(self, turns: Sequence[chat.Turn], model: str) -> guarding.Verdict:
        """The verdict on a conversation that is to be answered."""
        said = tuple(turns)
        return self._judge("before", lambda guard: guard.before(said), said, "", model)

    def answer(
        self, turns: Sequence[chat.Turn], text: str, ends: bool, model: str
    ) -> guarding.Verdict:
        """The verdict on an answer so far, all of it; at its end the guard is told that it is."""
        said = tuple(turns)

        def ask(guard: guarding.Guard) -> guarding.Verdict:
            verdict = guard.window(said, text)
            if ends and not verdict.blocked and verdict.error is None:
                guard.answered(said, text, verdict)
            return verdict

        return self._judge("window", ask, said, text, model)

    def _judge(
        self,
        where: str,
        ask: Callable[[guarding.Guard], guarding.Verdict],
        turns: tuple[chat.Turn, ...],
        text: str,
        model: str,
    ) -> guarding.Verdict:
        if self.guard is None:
            return guarding.Verdict(False)
        try:
            verdict = ask(self.guard)
        except Exception as error:  # of any guard: it must not let a text through
            verdict = guarding.Verdict(True, {}, f"{type(error).__name__}: {error}"[:500])
        if verdict.error is not None:
            verdict = verdict._replace(blocked=self.on_error == BLOCK)
        if verdict.blocked or verdict.error is not None:
            self.report(Incident(where, turns, text, verdict, model))
        return verdict
