"""The results of a lifecycle as plain text: an aligned table, notes, gates, times."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Results = Mapping[str, Any]


def text(results: Results) -> str:
    """The results as aligned plain text: table, notes, gates, times, environment."""
    rows, gates = results.get("rows") or [], results.get("gates") or []
    table = [["", *map(label, rows)]]
    for column in results.get("columns") or []:
        head = line(column.get("short") or "") or label(column)
        table.append([head, *_aligned([cell(row, column) for row in rows])])
    lines = side_by_side(table) if rows else ["no results"]
    if any("[" in entry for column in table[1:] for entry in column[1:]):
        lines.append("[expected] as the experiment states it")
    blocks = [[label(results)], lines, notes(results)]
    if gates:
        parts = [[f"  {verdict}", *rest] for verdict, *rest in map(gate_cells, gates)]
        blocks.append(
            [f"gates: {count(gates)}", *side_by_side(list(zip(*parts, strict=True)), left=2)]
        )
    blocks.append(footer(results))
    return "\n\n".join("\n".join(map(str.rstrip, block)) for block in blocks if block)


def cell(row: Results, column: Results) -> tuple[str, str, str]:
    """A metric as "value", "± standard error" and "[expected]"; "-" where there is no value.

    The column's digits are kept unless they would round the standard error to zero.
    """
    metric = (row.get("metrics") or {}).get(column.get("key"))
    metric = metric if isinstance(metric, Mapping) else {"value": metric}
    value, se, expected = (metric.get(part) for part in ("value", "se", "expected"))
    digits = 2 if column.get("digits") is None else int(column["digits"])
    if 0 < number(se) < 0.5 * 10.0**-digits:
        digits = min(digits + 4, math.ceil(-math.log10(number(se))))
    return (
        "-" if value is None else rounded(value, digits),
        "" if se is None or value is None else f"± {rounded(se, digits)}",
        "" if expected is None else f"[{rounded(expected, digits)}]",
    )


def rounded(value: Any, digits: int) -> str:
    """A number at fixed digits, without a negative zero; what is not finite by its name."""
    x = number(value)
    if not math.isfinite(x):
        return str(x)
    return f"{x:.4g}" if abs(x) >= 1e9 else f"{x:z.{digits}f}"


def _aligned(cells: Sequence[tuple[str, ...]]) -> list[str]:
    """The cells of a column as one string each, with values and errors under one another."""
    widths = [max(map(len, part)) for part in zip(*cells, strict=True)]
    return [
        " ".join(
            part.rjust(width) if i == 0 else part.ljust(width)
            for i, (part, width) in enumerate(zip(parts, widths, strict=True))
            if width
        )
        for parts in cells
    ]


def side_by_side(columns: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of the columns side by side; the first `left` start, the others end at one place."""
    widths = [max(map(len, column)) for column in columns]
    padded = [
        [entry.ljust(width) if i < left else entry.rjust(width) for entry in column]
        for i, (column, width) in enumerate(zip(columns, widths, strict=True))
    ]
    return ["  ".join(entries) for entries in zip(*padded, strict=True)]


def label(item: Results) -> str:
    """The name of an object of results.json: its label, title, stage or key."""
    names = (item.get(name) for name in ("label", "title", "stage", "key"))
    return line(next((name for name in names if name), "Lifecycle"))


def notes(results: Results) -> list[str]:
    """The lines under the table: baselines first."""
    lines = [*(results.get("baselines") or []), *(results.get("notes") or [])]
    return [line(entry) for entry in lines]


def gate_cells(gate: Results) -> tuple[str, str, str, str]:
    """A gate's verdict, name, value and rule."""
    value = number(gate.get("value"))
    shown = f"{value:.4g}" if math.isfinite(value) else str(value)
    verdict = "PASS" if gate.get("passed") is True else "FAIL"
    return verdict, line(gate.get("name")), shown, line(gate.get("rule") or "")


def count(gates: Sequence[Results]) -> str:
    """How many gates were passed, in words."""
    passed = sum(gate.get("passed") is True for gate in gates)
    return f"{passed} of {len(gates)} passed"


def footer(results: Results) -> list[str]:
    """Times of the stages and the environment, a line each."""
    seconds = results.get("seconds") or {}
    times = {stage: number(value) for stage, value in seconds.items()}
    total = sum(value for value in times.values() if math.isfinite(value))
    spans = ", ".join(f"{line(stage)} {_span(value)}" for stage, value in times.items())
    facts = (results.get("environment") or {}).items()
    lines = [f"time: {_span(total)} ({spans})"] if times else []
    lines += [f"command: {line(results['command'])}"] if results.get("command") else []
    lines += [f"seed: {line(results['seed'])}"] if results.get("seed") is not None else []
    return lines + [", ".join(f"{line(k)} {line(v)}" for k, v in facts)] * bool(facts)


def _span(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "-"
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def number(value: Any) -> float:
    """A JSON value as a float; "nan" and "inf" may stand as strings, anything else is nan."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def line(value: Any) -> str:
    """The value as one printable line."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())


def measure(row: Results, key: str) -> tuple[float, float]:
    """A row's metric and its standard error; nan where there is none."""
    metric = (row.get("metrics") or {}).get(key)
    if isinstance(metric, Mapping):
        return number(metric.get("value")), number(metric.get("se"))
    return number(metric), math.nan


def family(row: Results) -> str:
    """The name of a row's family: its own, else its stage's."""
    return str(row.get("family") or row.get("stage") or "")
