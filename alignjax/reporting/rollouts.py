"""What a policy wrote while it was trained: groups of samples, their rewards, their dead share."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from alignjax.reporting import markup, tables

Row = Mapping[str, Any]
SPANS = 6  # of steps, a line each
SHOWN = 3  # groups: of the first, the middle and the last step that has one
# Columns of the table of steps: keys of metrics.jsonl, their names, digits.
KEYS = (
    ("length", "tokens", 1),
    ("cut", "cut", 3),
    ("dead", "dead groups", 3),
    ("dead_predicted", "dead, predicted", 3),
)
NOTE = (
    "A dead group is one whose rewards are all equal: it teaches nothing. Predicted is "
    "p^G + (1 - p)^G at the mean reward p of the step, as if all prompts were as hard: prompts of "
    "different difficulty make the measured share larger."
)


def section(stages: Mapping[str, tuple[Sequence[Row], Sequence[Row]]]) -> str:
    """HTML of the stages that sampled; empty where none did.

    stages: by name, the rows of metrics.jsonl and of samples.jsonl.
    """
    blocks = []
    for name, (steps, samples) in stages.items():
        groups = shown(samples)
        if groups:
            blocks += [f"<h3>{markup.escape(tables.line(name))}</h3>", _steps(steps)]
            blocks += [_group(group) for group in groups]
    if not blocks:
        return ""
    note = f'<p class="muted">{markup.escape(NOTE)}</p>'
    return "\n".join(["<h2>Rollouts</h2>", *filter(None, blocks), note])


def shown(samples: Sequence[Row]) -> list[list[Row]]:
    """The groups of the first, the middle and the last step, in order."""
    usable = [row for row in samples if math.isfinite(tables.number(row.get("step")))]
    ordered = sorted(usable, key=lambda row: tables.number(row["step"]))
    steps = [
        list(group)
        for _, group in itertools.groupby(ordered, key=lambda row: tables.number(row["step"]))
    ]
    places = np.linspace(0, len(steps) - 1, min(SHOWN, len(steps))).round().astype(int)
    return [steps[place] for place in dict.fromkeys(places.tolist())]


def spans(steps: Sequence[Row], keys: Sequence[str]) -> list[tuple[str, list[float]]]:
    """("first-last step", means of the keys) of up to SPANS equal spans of steps."""
    kept = {tables.number(row.get("step")): row for row in steps}
    ordered = [kept[step] for step in sorted(step for step in kept if math.isfinite(step))]
    found = []
    for part in np.array_split(np.arange(len(ordered)), min(SPANS, len(ordered)) or 1):
        rows = [ordered[i] for i in part]
        if not rows:
            continue
        means = []
        for key in keys:
            values = [tables.number(row.get(key)) for row in rows]
            finite = [value for value in values if math.isfinite(value)]
            means.append(sum(finite) / len(finite) if finite else math.nan)
        first, last = (int(tables.number(row["step"])) for row in (rows[0], rows[-1]))
        found.append((f"{first}" if first == last else f"{first}–{last}", means))
    return found


def _steps(steps: Sequence[Row]) -> str:
    """The table of steps: reward, its parts where there are several, lengths, dead groups."""
    names = {key for row in steps for key in row}
    parts = sorted(name for name in names if name.startswith("reward_"))
    columns = [("reward", "reward", 3)]
    if len(parts) > 1:
        columns += [(name, name.removeprefix("reward_"), 3) for name in parts]
    columns += [column for column in KEYS if column[0] in names]
    lines = spans(steps, [key for key, _, _ in columns])
    if not lines:
        return ""
    heads = ["steps", *(markup.escape(tables.line(label)) for _, label, _ in columns)]
    rows = [
        [name, *(_number(x, digits) for x, (_, _, digits) in zip(means, columns, strict=True))]
        for name, means in lines
    ]
    return markup.table(heads, rows)


def _number(value: Any, digits: int) -> str:
    x = tables.number(value)
    return tables.rounded(x, digits) if math.isfinite(x) else "-"


def _group(group: Sequence[Row]) -> str:
    """A prompt and its samples, each with what it earned."""
    first = group[0]
    parts = list(dict.fromkeys(name for row in group for name in row.get("parts") or {}))
    parts = parts if len(parts) > 1 else []
    heads = ["reward", *(markup.escape(tables.line(name)) for name in parts)]
    heads += ["advantage", "tokens", "sample"]
    rows = []
    for row in group:
        own = row.get("parts") or {}
        cells = [_number(row.get("reward"), 2), *(_number(own.get(name), 2) for name in parts)]
        cut = " (cut)" if row.get("cut") else ""
        cells += [_number(row.get("advantage"), 2), f"{_number(row.get('tokens'), 0)}{cut}"]
        text = markup.escape(row.get("text") or "")
        rows.append([*cells, f'<div class="text said" dir="auto">{text}</div>'])
    title = f"step {_number(first.get('step'), 0)}, prompt {_number(first.get('task'), 0)}"
    prompt = f'<div class="text" dir="auto">{markup.escape(first.get("prompt") or "")}</div>'
    head = f'<div class="card sample"><div class="muted">{title}</div>{prompt}</div>'
    return head + markup.table(heads, rows)
