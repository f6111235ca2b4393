"""Rewards by rule: what a text and its row of the data say, without a model.

A rule is a dataclass and one pure function of texts: row by row, on the host, deterministic. Its
score of a row is a value, NaN where the row can't be scored (it then leaves its group), or an
exception, which `combine` counts as a failure; never a 0 that means "I could not tell". That an
answer is not there is a wrong answer, and scores 0.

    @dataclasses.dataclass(kw_only=True)
    class Polite(rules.RuleConfig):
        '''1 if a text says please.'''

        def score(self, texts, tasks):
            return np.asarray(["please" in text.lower() for text in texts], np.float32)

Numbers are read as `answers` says.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from alignjax.core import shapes
from alignjax.rewards import answers, pool

Task = Mapping[str, Any]  # a row's own columns: prompt, answer, ..., as the data give them
Scores = np.ndarray | Mapping[str, np.ndarray]
# Columns that whoever samples adds to each row, in tokens: the completion's length with its end,
# and the most that it could have had (max_new_tokens).
TOKENS, LIMIT = "tokens", "limit"
FILLED = (TOKENS, LIMIT)


@dataclasses.dataclass(kw_only=True)
class RuleConfig:
    """What every rule is: a dataclass with its options and a function of texts."""

    weight: float = 1.0  # of the rule in the sum

    def validate(self) -> None:
        """Raises ValueError where an option is wrong."""
        shapes.check_number(f"{type(self).__name__}.weight", self.weight)

    def needs(self) -> tuple[str, ...]:
        """Columns of a row that `score` reads."""
        return ()

    def check_answers(self, tasks: Sequence[Task]) -> np.ndarray:
        """Which rows have an answer that the rule can't read, [N] bool; read once, at load."""
        return np.zeros(len(tasks), bool)

    def examples(self) -> Sequence[tuple[str, Task, float]]:
        """Texts, rows and the score that each must have on any machine; tried before a run."""
        return ()

    def score(self, texts: Sequence[str], tasks: Sequence[Task]) -> Scores:
        """[N] float32, or several terms of it by name; NaN where a row can't be scored.

        Args:
          texts: completions alone, without prompts. tasks: the row of each.
        """
        raise NotImplementedError


@dataclasses.dataclass(kw_only=True)
class PooledConfig(RuleConfig):
    """A rule whose rows are scored one by one in worker processes, each with a deadline."""

    def is_pooled(self) -> bool:
        return True

    def request(self, text: str, task: Task) -> pool.Request | float:
        """What a worker is asked for a row; or the row's score, where nothing need be asked."""
        raise NotImplementedError

    def value(self, answer: Any) -> float | Mapping[str, float]:
        """The score in a worker's answer."""
        return float(answer)

    def score(self, texts: Sequence[str], tasks: Sequence[Task]) -> Scores:
        raise TypeError(
            f"{type(self).__name__} must be scored in worker processes; got a call of its score. "
            "Write combine.combined({'name': rule})(texts, tasks)."
        )


def per_text(
    function: Callable[[str, Task], float], texts: Sequence[str], tasks: Sequence[Task]
) -> np.ndarray:
    """A function of one row, for all rows, [N] float32."""
    pairs = zip(texts, tasks, strict=True)
    return np.fromiter((function(text, task) for text, task in pairs), np.float32, len(texts))


@dataclasses.dataclass(kw_only=True)
class AnswerConfig(RuleConfig):
    """A rule that compares with an answer in a column of the row."""

    answer: str = "answer"  # column with the right answer

    def needs(self) -> tuple[str, ...]:
        return (self.answer,)

    def gold(self, task: Task) -> Any:
        """The row's right answer, read; None where it can't be."""
        raise NotImplementedError

    def check_answers(self, tasks: Sequence[Task]) -> np.ndarray:
        return np.asarray([self.gold(task) is None for task in tasks], bool)

    def correct(self, text: str, gold: Any) -> bool:
        """Whether a text gives that answer."""
        raise NotImplementedError

    def score(self, texts: Sequence[str], tasks: Sequence[Task]) -> np.ndarray:
        def one(text: str, task: Task) -> float:
            gold = self.gold(task)
            return float("nan") if gold is None else float(self.correct(text, gold))

        return per_text(one, texts, tasks)


TAKES = ("last", "boxed", "marked", "whole")


@dataclasses.dataclass(kw_only=True)
class ExactNumber(AnswerConfig):
    r"""1 if the text's number is the row's answer exactly, as fractions; else 0.

    take: which number: the "last" of the text; the one in the last \boxed{..}; the one on the line
    behind the last marker; or the "whole" text. The last three must be that number alone, but for a
    unit: "3 or 4" is none. 0.5 equals 1/2; .33 is not 1/3; 50% is 50.

    The row's answer is a number, its text, or a solution with the marker or a \boxed{..}.

    Reference: Cobbe et al. (2021, GSM8K), arXiv 2110.14168: its marker is ####.
    """

    take: str = "last"  # last, boxed, marked or whole
    marker: str = "####"  # stands before the answer; read by "marked", and in the row's answer

    def validate(self) -> None:
        super().validate()
        shapes.check_choice(f"{type(self).__name__}.take", self.take, TAKES)
        if not self.marker and self.take == "marked":
            raise ValueError(
                f"{type(self).__name__}.marker must not be empty where take is marked; got ''. "
                "Name what stands before the answer, e.g. '####'."
            )

    def gold(self, task: Task) -> Fraction | None:
        return answers.gold_number(answers.column(task, self.answer), self.marker)

    def correct(self, text: str, gold: Any) -> bool:
        if self.take == "last":
            return answers.last_number(text) == gold
        if self.take == "whole":
            return answers.number(text) == gold
        boxed = self.take == "boxed"
        found = answers.boxed(text) if boxed else answers.marked(text, self.marker)
        return found is not None and answers.number(found) == gold


@dataclasses.dataclass(kw_only=True)
class LastNumber(ExactNumber):
    """1 if the last number of the text is the row's answer exactly; else 0.

    `ExactNumber` with its default, by the name that evaluations give it (flexible extract).
    """

    def validate(self) -> None:
        super().validate()
        if self.take != "last":
            raise ValueError(
                f"LastNumber.take must be last; got {self.take!r}. Use ExactNumber for another."
            )


@dataclasses.dataclass(kw_only=True)
class Boxed(AnswerConfig):
    r"""1 if the last \boxed{..} holds the row's answer; else 0, also where it isn't closed.

    Equal are the same number, or the same expression once both are in one spelling
    (`answers.normal`); nothing is computed: \frac{2}{4} is 1/2, x+1 is not 1+x. `maths.MathVerify`
    knows more. The row's answer is an expression, or a solution with a \boxed{..}.

    Reference: Hendrycks et al. (2021, MATH), arXiv 2103.03874.
    """

    def gold(self, task: Task) -> str | None:
        value = answers.column(task, self.answer)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return None
        found = answers.boxed(str(value)) if "\\boxed" in str(value) else str(value)
        return found if found is not None and answers.normal(found) else None

    def correct(self, text: str, gold: Any) -> bool:
        found = answers.boxed(text)
        return found is not None and answers.same(found, gold)


THINK_ANSWER = (
    r"<think>(?:(?!</?think>).)*</think>\s*<answer>(?:(?!</?(?:answer|think)>).)*</answer>"
)


@dataclasses.dataclass(kw_only=True)
class Format(RuleConfig):
    """1 if a regular expression matches the text; else 0. The dot matches line breaks too.

    whole: it must match all of the text but blanks at its ends; else a part is enough. The default
    is one <think>..</think>, then one <answer>..</answer>, neither inside the other.

    A pattern that backtracks without end stops the run: avoid (a*)*.

    Reference: DeepSeek-AI (2025, DeepSeek-R1), arXiv 2501.12948, section 2.2.2.
    """

    pattern: str = THINK_ANSWER  # of Python's re
    whole: bool = True  # match all of the text

    def validate(self) -> None:
        super().validate()
        try:
            re.compile(self.pattern, re.DOTALL)
        except re.error as error:
            raise ValueError(
                f"Format.pattern must be a regular expression; got {self.pattern!r}: {error}. "
                "Escape what should stand for itself with a backslash."
            ) from None

    def score(self, texts: Sequence[str], tasks: Sequence[Task]) -> np.ndarray:
        pattern = re.compile(self.pattern, re.DOTALL)
        match = pattern.fullmatch if self.whole else pattern.search
        return per_text(lambda text, task: float(match(text.strip()) is not None), texts, tasks)


@dataclasses.dataclass(kw_only=True)
class Length(RuleConfig):
    """How near a completion's length n is to a target t, in tokens.

    exact: -slope |n - t|, at most 0. Else (no longer than): clip(slope (t - n) + 0.5, 0, 1).

    Reference: Aggarwal and Welleck (2025, L1), arXiv 2503.04697, section 3 (LCPO-Exact, -Max).
    """

    target: int = 0  # tokens; 0 takes it from the column
    column: str = ""  # the row's own target, tokens
    slope: float = 0.0003  # reward per token
    exact: bool = True

    def validate(self) -> None:
        super().validate()
        shapes.check_number("Length.slope", self.slope, above=0)
        if (self.target > 0) == bool(self.column) or self.target < 0:
            raise ValueError(
                f"Length must have a target > 0 or a column with it, and not both; got target "
                f"{self.target} and column {self.column!r}. Set one of them."
            )

    def needs(self) -> tuple[str, ...]:
        return (TOKENS, self.column) if self.column else (TOKENS,)

    def score(self, texts: Sequence[str], tasks: Sequence[Task]) -> np.ndarray:
        def one(text: str, task: Task) -> float:
            target = self.target or float(answers.column(task, self.column))
            over = answers.column(task, TOKENS) - target
            if self.exact:
                return -self.slope * abs(over)
            return min(max(0.5 - self.slope * over, 0.0), 1.0)

        return per_text(one, texts, tasks)


@dataclasses.dataclass(kw_only=True)
class Repetition(RuleConfig):
    """-(1 - distinct / all) over the text's n-grams: 0 where none comes twice, down to -1.

    Words are what blanks divide, in lower case; a text shorter than one n-gram scores 0.

    Reference: Yeo et al. (2025, Demystifying Long Chain-of-Thought), arXiv 2502.03373,
    in the form of the share of repeated n-grams (Hugging Face, open-r1).
    """

    size: int = 4  # words in an n-gram
    characters: bool = False  # n-grams of characters, for languages without blanks

    def validate(self) -> None:
        super().validate()
        shapes.check_number("Repetition.size", self.size, minimum=1)

    def score(self, texts: Sequence[str], tasks: Sequence[Task]) -> np.ndarray:
        def one(text: str, task: Task) -> float:
            lower = text.lower()
            parts = [c for c in lower if not c.isspace()] if self.characters else lower.split()
            grams = [tuple(parts[i : i + self.size]) for i in range(len(parts) - self.size + 1)]
            return len(set(grams)) / len(grams) - 1 if grams else 0.0

        return per_text(one, texts, tasks)


@dataclasses.dataclass(kw_only=True)
class SoftOverlong(RuleConfig):
    """A penalty that grows over the last `buffer` tokens before the limit, from 0 to -1.

        0                            n <= limit - buffer
        (limit - buffer - n) / buffer    limit - buffer < n <= limit
        -1                           n > limit

    n: the completion's length, tokens.

    Reference: Yu et al. (2025, DAPO), arXiv 2503.14476, equation 13.
    """

    buffer: int = 512  # tokens, the paper's L_cache
    limit: int = 0  # tokens, the paper's L_max; 0 is the most that may be sampled

    def validate(self) -> None:
        super().validate()
        shapes.check_number("SoftOverlong.buffer", self.buffer, minimum=1)
        shapes.check_number("SoftOverlong.limit", self.limit, minimum=0)
        if self.limit:
            self._check(self.limit)

    def needs(self) -> tuple[str, ...]:
        return (TOKENS,) if self.limit else (TOKENS, LIMIT)

    def _check(self, limit: int) -> None:
        if self.buffer > limit:
            raise ValueError(
                f"SoftOverlong.buffer must be <= the limit of {limit} tokens; got {self.buffer}. "
                "Every completion would be penalised: take a smaller buffer."
            )

    def score(self, texts: Sequence[str], tasks: Sequence[Task]) -> np.ndarray:
        def one(text: str, task: Task) -> float:
            limit = self.limit or int(answers.column(task, LIMIT))
            self._check(limit)
            over = int(answers.column(task, TOKENS)) - (limit - self.buffer)
            return -min(max(over / self.buffer, 0.0), 1.0)

        return per_text(one, texts, tasks)
