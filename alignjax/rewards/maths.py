"""Mathematical answers compared by the package math-verify: pip install 'alignjax[maths]'."""

import dataclasses
import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from alignjax.core import shapes
from alignjax.rewards import answers, pool, rules

HANDLER = "alignjax.rewards.handlers:maths"


@dataclasses.dataclass(kw_only=True)
class MathVerify(rules.PooledConfig):
    r"""1 if the text's answer equals the row's as mathematics; else 0.

    The text's answer is its last \boxed{..}, else its last formula or number. Equal are 0.5 and
    \frac12, x+1 and 1+x, \{1,2\} and \{2,1\}; not (1,2) and (2,1). The row's answer is LaTeX, with
    or without $..$, or a solution with a \boxed{..}.

    It runs in worker processes: an answer whose comparison doesn't end (10^{10^{10}}) or fails is a
    failure, not a 0. math-verify's own timeouts, which work in a main thread alone, are off.

    Reference: Kydlíček (2025), Math-Verify, github.com/huggingface/Math-Verify.
    """

    answer: str = "answer"  # column with the right answer
    timeout_s: float = 5.0  # wall-clock seconds for a text

    def validate(self) -> None:
        super().validate()
        shapes.check_number("MathVerify.timeout_s", self.timeout_s, above=0)
        if importlib.util.find_spec("math_verify") is None:
            raise ValueError(
                "MathVerify needs the package math-verify; it is not installed. Run pip install "
                "'alignjax[maths]', or use rules.Boxed."
            )

    def needs(self) -> tuple[str, ...]:
        return (self.answer,)

    def gold(self, task: rules.Task) -> str | None:
        """The row's right answer as text; None where it is none."""
        value = answers.column(task, self.answer)
        is_answer = isinstance(value, str | int | float) and not isinstance(value, bool)
        return str(value) if is_answer and str(value).strip() else None

    def check_answers(self, tasks: Sequence[rules.Task]) -> np.ndarray:
        golds = [self.gold(task) for task in tasks]
        texts = sorted({gold for gold in golds if gold is not None})
        outcomes = pool.shared().run([self._request(None, gold) for gold in texts])
        if outcomes and outcomes[0].broken:
            raise ValueError(
                f"math-verify must be loadable in a worker process; got {outcomes[0].error}. "
                "Install it anew: pip install 'alignjax[maths]'."
            )
        legal = {t for t, outcome in zip(texts, outcomes, strict=True) if outcome.value is not None}
        return np.asarray([gold not in legal for gold in golds], bool)

    def examples(self) -> Sequence[tuple[str, rules.Task, float]]:
        task = {self.answer: "0.5"}
        return [("It is $\\boxed{\\frac{1}{2}}$.", task, 1.0), ("$\\boxed{2}$", task, 0.0)]

    def request(self, text: str, task: rules.Task) -> pool.Request | float:
        gold = self.gold(task)
        return float("nan") if gold is None else self._request(text, gold)

    def _request(self, text: str | None, gold: str) -> pool.Request:
        return pool.Request(HANDLER, {}, {"text": text, "gold": gold}, self.timeout_s)

    def value(self, answer: Any) -> float:
        return float("nan") if answer is None else float(answer)
