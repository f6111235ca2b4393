"""Several rules as one reward: a weighted sum, and what could not be scored.

    score = combine.combined({"correct": rules.LastNumber(), "format": rules.Format(weight=0.1)})
    reward, parts, failed, problems = score(texts, tasks)

A row's reward is the sum of weight x score. It is NaN where any score is: where a rule can't score
the row, or failed on it. A failure is an exception, an infinite score, a timeout or the death of a
worker; it concerns its own row alone, and is counted.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.core import errors
from alignjax.rewards import code, pool, rules

UNREADABLE = 0.01  # share of answers above which the data, or the rule, are wrong
SHOWN = 3  # failures that are told
# What a rule must bear: texts that are empty, long, odd, right or wrong.
PROBES = (
    "", "7", "The answer is 7.", "#### 12", "\\boxed{\\frac{1}{2}}", "word " * 200,
    "<think>a\nb</think><answer>3</answer>", "no answer at all",
    "−1,234.5 % \u00e9\u4e2d\U0001f600",
)  # fmt: skip


class TextScores(NamedTuple):
    """What rules say of N texts.

    reward: [N] float32, NaN where a row can't be scored. parts: each rule's score by its name, of
    which the reward is the weighted sum, and the terms of a rule that has several as "rule/term";
    [N] float32. failed: [N] bool, rows on which a rule failed. problems: up to 3 failures in words.
    """

    reward: np.ndarray
    parts: Mapping[str, np.ndarray]
    failed: np.ndarray
    problems: list[str]


Scorer = Callable[[Sequence[str], Sequence[rules.Task]], TextScores]
Rules = Mapping[str, rules.RuleConfig]


class _Rows(NamedTuple):
    """What one rule says: its parts [N] by their own names ("" for one), errors by row."""

    parts: dict[str, np.ndarray]
    errors: dict[int, str]


def check(named: Rules, *, allow_code: bool = False) -> None:
    """Compares rules with what scoring reads; before data or a model are loaded.

    Raises:
      ValueError: there is no rule, one is none, its options are wrong, all weights are 0, or one
        runs programs without `allow_code`.
    """
    if not named:
        raise ValueError("a reward must have at least one rule; got none. Name one.")
    for name, rule in named.items():
        if not isinstance(rule, rules.RuleConfig) or not name or "/" in name:
            raise ValueError(
                f"a rule must be a RuleConfig with a name without '/'; got {name!r}: "
                f"{type(rule).__name__}. Derive it from rewards.rules.RuleConfig."
            )
        rule.validate()
        if isinstance(rule, code.Code) and not allow_code:
            raise ValueError(
                f"rules that run programs of the model must be allowed; got {name}: Code without "
                "--allow_code. Run it where nothing can be lost, and pass --allow_code."
            )
    if all(rule.weight == 0 for rule in named.values()):
        raise ValueError(
            f"one rule at least must have a weight other than 0; got none ({', '.join(named)})."
        )


def check_tasks(named: Rules, tasks: Sequence[rules.Task]) -> np.ndarray:
    """Which rows have an answer that some rule can't read, [N] bool: to be dropped and counted.

    Raises:
      ValueError: there are no rows, a column is missing, or over 1 % of answers can't be read.
    """
    if not len(tasks):
        raise ValueError("rules must have rows to score; got none. Check the data's path.")
    bad = np.zeros(len(tasks), bool)
    for name, rule in named.items():
        wanted = [column for column in rule.needs() if column not in rules.FILLED]
        for number, task in enumerate(tasks):
            missing = [column for column in wanted if column not in task]
            if missing:
                raise ValueError(
                    f"rows must have the column {missing[0]!r} that the rule {name} reads; got "
                    f"{', '.join(map(str, task)) or 'no columns'} (row {number}). Name another "
                    f"column in the rule, or add it to the data."
                )
        own = np.asarray(rule.check_answers(tasks), bool)
        if own.mean() > UNREADABLE:
            number = int(np.argmax(own))
            shown = {column: tasks[number][column] for column in wanted}
            raise ValueError(
                f"the rule {name} must be able to read the answers of 99 % of rows; got "
                f"{int(own.sum())} of {len(own)} that it can't, the first {shown!s:.200} (row "
                f"{number}). Correct them, or use another rule."
            )
        bad |= own
    return bad


def combined(named: Rules, *, workers: pool.Pool | None = None, allow_code: bool = False) -> Scorer:
    """(texts, tasks) -> TextScores: all rules on all rows, deterministic, on the host.

    Args:
      named: rules by name. workers: a pool of one's own; by default the one that all rules of this
        process share, started if a rule needs it.

    Raises:
      ValueError: as `check` does. From the function: a rule returns another length or no numbers,
        or what it needs can't be loaded.
    """
    check(named, allow_code=allow_code)
    # Each rule's parts, once known: processes that score different rows must name the same.
    known: dict[str, frozenset[str]] = {}

    def score(texts: Sequence[str], tasks: Sequence[rules.Task]) -> TextScores:
        if len(texts) != len(tasks):
            raise ValueError(
                f"texts must have a row each; got {len(texts)} texts and {len(tasks)} rows."
            )
        reward, failed = np.zeros(len(texts), np.float32), np.zeros(len(texts), bool)
        parts: dict[str, np.ndarray] = {}
        problems: list[str] = []
        for name, rule in named.items():
            rows = _scored(name, rule, texts, tasks, workers)
            _keep_parts(name, rows, known, len(texts))
            total = np.zeros(len(texts), np.float32)
            for part, values in sorted(rows.parts.items()):
                if part:
                    parts[f"{name}/{part}"] = values
                total += values
            total[list(rows.errors)] = np.nan
            parts[name] = total
            reward += np.float32(rule.weight) * total
            for row, error in sorted(rows.errors.items()):
                failed[row] = True
                problems.append(f"{name}: {error} (row {row}, text {texts[row][:60]!r})")
        return TextScores(reward, parts, failed, problems[:SHOWN])

    return score


def _scored(
    name: str,
    rule: rules.RuleConfig,
    texts: Sequence[str],
    tasks: Sequence[rules.Task],
    workers: pool.Pool | None,
) -> _Rows:
    if isinstance(rule, rules.PooledConfig) and rule.is_pooled():
        pieces = _in_pool(name, rule, texts, tasks, workers or pool.shared())
    else:
        pieces = _in_process(name, rule, texts, tasks)
    rows = _Rows({}, {})
    for numbers, result in pieces:
        if isinstance(result, str):
            rows.errors.update(dict.fromkeys(numbers, result))
            continue
        for part, values in result.items():
            whole = rows.parts.setdefault(part, np.full(len(texts), np.nan, np.float32))
            whole[list(numbers)] = values
            for number, value in zip(numbers, values, strict=True):
                if np.isinf(value):
                    rows.errors[number] = f"it must return finite scores; got {value}"
                    whole[number] = np.nan
    return rows


def _keep_parts(name: str, rows: _Rows, known: dict[str, frozenset[str]], length: int) -> None:
    """The parts that a rule has had from its first scores on, also where all rows failed.

    Raises:
      ValueError: it has others now.
    """
    if rows.parts:
        parts = known.setdefault(name, frozenset(rows.parts))
        if not parts >= set(rows.parts):
            raise ValueError(
                f"the rule {name} must return the same parts for all texts; got "
                f"{', '.join(sorted(rows.parts))} after {', '.join(sorted(parts))}. Return nan for "
                "a part that a text does not have."
            )
    for part in sorted(known.get(name, {""})):
        rows.parts.setdefault(part, np.full(length, np.nan, np.float32))


Piece = tuple[Sequence[int], Mapping[str, np.ndarray] | str]  # rows, and their parts or an error


def _in_process(
    name: str, rule: rules.RuleConfig, texts: Sequence[str], tasks: Sequence[rules.Task]
) -> Iterator[Piece]:
    """All rows at once; after an exception its halves, down to the rows that raise it."""
    waiting: list[Sequence[int]] = [range(len(texts))] if len(texts) else []
    while waiting:
        numbers = waiting.pop(0)
        try:
            scores = rule.score([texts[i] for i in numbers], [tasks[i] for i in numbers])
        except Exception as error:
            if len(numbers) == 1:
                yield numbers, errors.condense(error)
            else:
                half = len(numbers) // 2
                waiting += [numbers[:half], numbers[half:]]
            continue
        yield numbers, _checked(name, scores, len(numbers))


def _in_pool(
    name: str,
    rule: rules.PooledConfig,
    texts: Sequence[str],
    tasks: Sequence[rules.Task],
    workers: pool.Pool,
) -> Iterator[Piece]:
    """Every row by itself, in a worker."""
    requests, asked = [], []
    for number, (text, task) in enumerate(zip(texts, tasks, strict=True)):
        try:
            request = rule.request(text, task)
        except Exception as error:
            yield [number], errors.condense(error)
            continue
        if isinstance(request, int | float):
            yield [number], {} if np.isnan(request) else {"": np.full(1, request, np.float32)}
        else:
            requests.append(request)
            asked.append(number)
    for number, outcome in zip(asked, workers.run(requests), strict=True):
        if outcome.broken:
            raise ValueError(
                f"the rule {name} must be loadable in a worker process; got {outcome.error}. "
                "Install what it needs, or correct its file."
            )
        if outcome.error:
            yield [number], outcome.error
            continue
        value = rule.value(outcome.value)
        named = value if isinstance(value, Mapping) else {"": value}
        yield [number], {part: np.full(1, score, np.float32) for part, score in named.items()}


def _checked(name: str, scores: Any, length: int) -> dict[str, np.ndarray]:
    """A rule's scores by part, float32.

    Raises:
      ValueError: not one number for each text.
    """
    named = scores if isinstance(scores, Mapping) else {"": scores}
    found = {}
    for part, values in named.items():
        whole = f"the rule {name}" + (f", part {part}," if part else "")
        try:
            array = np.asarray(values)
            array = array.astype(np.float32) if array.dtype.kind in "fiubO" else array
        except (TypeError, ValueError):
            array = np.asarray(values, object)
        if array.dtype != np.float32:
            raise ValueError(
                f"{whole} must return numbers; got {array.dtype} {array.flat[:1]!s:.60}. Return a "
                "float for each text, nan where it can't be scored."
            )
        if array.shape != (length,):
            raise ValueError(
                f"{whole} must return one score for each text, [{length}]; got shape "
                f"{list(array.shape)}. Score every text that it is given."
            )
        found[str(part)] = array
    if not found:
        raise ValueError(f"the rule {name} must return scores; got none.")
    return found


def probe(named: Rules, tasks: Sequence[rules.Task], score: Scorer, *, limit: int = 1024) -> None:
    """Tries rules on a few texts and rows of the data, before a run.

    Args:
      limit: the most that may be sampled, tokens.

    Raises:
      ValueError: a rule fails on every text, doesn't score every row by itself, or says on this
        machine something else than it must of its own examples.
    """
    rows = [dict(tasks[i % len(tasks)]) for i in range(len(PROBES))]
    rows = [
        {**row, rules.TOKENS: 1 + i * limit // len(rows), rules.LIMIT: limit}
        for i, row in enumerate(rows)
    ]
    first = score(PROBES, rows)
    if first.failed.all():
        raise ValueError(
            f"rules must score texts; all of {len(PROBES)} tries failed: {first.problems[0]}."
        )
    for order in (list(reversed(range(len(rows)))), *([i] for i in range(len(rows)))):
        again = score([PROBES[i] for i in order], [rows[i] for i in order])
        for part, values in first.parts.items():
            other = again.parts.get(part, np.full(len(order), np.nan))
            same = np.isclose(values[order], other, rtol=1e-5, equal_nan=True)
            if not same.all():
                row = int(np.argmin(same))
                raise ValueError(
                    f"the rule {part} must score every row by itself, and the same row alike; got "
                    f"{values[order][row]:g} and {other[row]:g} for one text as the rows around it "
                    "changed. Read texts[i] with tasks[i] alone, and draw nothing."
                )
    _check_examples(named)


def _check_examples(given: Rules) -> None:
    for name, rule in given.items():
        for text, task, wanted in rule.examples():
            own = _scored(name, rule, [text], [task], None)
            value = float(sum(values[0] for values in own.parts.values()))
            if own.errors or value != np.float32(wanted):
                got = own.errors.get(0, f"{value:g}")
                raise ValueError(
                    f"the rule {name} must give its own example {wanted:g} on this machine; got "
                    f"{got}. What it runs is not as it should be here."
                )
