"""Results of evaluation suites: a table for the terminal, a section of the page, its figure."""

import base64
import contextlib
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from alignjax.core import untrusted
from alignjax.reporting import figures, markup, tables

Summary = Mapping[str, Any]
LEVEL = 1.96  # standard errors on each side of a 95% interval
MOST, PANELS = 40, 6  # bars of a panel, panels of a figure: the table has them all
NOTE = "Lines are 95% intervals of 1.96 clustered standard errors; what has no error is not drawn."


class Bar(NamedTuple):
    """A bar: its value, and how far its interval reaches on each side."""

    label: str
    value: float
    reach: float


def text(summaries: Sequence[Summary]) -> str:
    """An aligned table: every metric over all rows, and by category below it."""
    blocks = []
    for own in summaries:
        rows = [_cells(metric) for metric in ordered(own)]
        head = f"{tables.line(own.get('suite'))}: {own.get('rows')} rows"
        if own.get("unscored"):
            head += f", {own['unscored']} of them unscored"
        lines = [head]
        if rows:
            widths = [max(len(row[i]) for row in rows) for i in range(4)]
            lines += [
                f"  {a.ljust(widths[0])}  {b.rjust(widths[1])}  {c.ljust(widths[2])}  {d}".rstrip()
                for a, b, c, d in rows
            ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def ordered(summary: Summary) -> list[Mapping[str, Any]]:
    """Metrics over all rows, then those of categories."""
    return sorted(summary.get("metrics") or [], key=lambda own: bool(own.get("category")))


def comparison(differences: Sequence[Mapping[str, Any]]) -> str:
    """An aligned table of `compare`'s differences."""
    heads = ["", "a", "b", "b - a", "± se", "p", "p by Holm", "test", "over"]
    rows = [heads]
    for own in differences:
        over = f"{own['rows']} rows"
        over += f", {own['clusters']} clusters" if own["clusters"] != own["rows"] else ""
        numbers = [own["a"], own["b"], own["difference"], own["se"], own["p"], own["p by Holm"]]
        shown = ["-" if x is None else tables.rounded(x, 4) for x in numbers]
        name = tables.line(f"{own['suite']}: {own['score']}")
        rows.append([name, *shown, own["test"], over])
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [x.rjust(w) for x, w in zip(row[1:7], widths[1:7], strict=True)]
        lines.append("  ".join([*cells, row[7].ljust(widths[7]), row[8]]).rstrip())
    return "\n".join(lines)


def _cells(metric: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """(name, value, error, what it is over) of a metric."""
    category = tables.line(metric.get("category") or "")
    name = tables.line(metric.get("name"))
    value, se = tables.number(metric.get("value")), tables.number(metric.get("se"))
    rows, clusters = metric.get("rows"), metric.get("clusters")
    over = f"{rows} rows" + (f", {clusters} clusters" if clusters != rows else "")
    note = tables.line(metric.get("note") or "")
    return (
        f"  {name}, {category}" if category else name,
        tables.rounded(value, 4) if math.isfinite(value) else "-",
        f"± {tables.rounded(se, 4)}" if math.isfinite(se) else "",
        note or over,
    )


def summaries_in(workdir: pathlib.Path) -> list[Summary]:
    """The summaries in a folder of results of suites, or in a run's own; damaged ones are left out.

    The file of a summary and the folder in a run are named as `evals.suites.run` names them.
    """
    files = sorted(workdir.glob("*/summary.json")) or sorted(
        (workdir / "evaluations").glob("*/summary.json")
    )
    summaries: list[Summary] = []
    for file in files:
        with contextlib.suppress(OSError, ValueError):
            own = untrusted.read_json(file, untrusted.RECORD)
            if isinstance(own, dict) and isinstance(own.get("metrics"), list):
                summaries.append(own)
    return summaries


def section(summaries: Sequence[Summary]) -> str:
    """HTML of results: a figure and a table for each suite, and what it was asked with."""
    blocks = []
    for own in summaries:
        name = markup.escape(tables.line(own.get("suite")))
        count = f"{own.get('rows')} rows"
        count += f", {own['unscored']} of them unscored" if own.get("unscored") else ""
        blocks += [f"<h2>{name}</h2>", f'<p class="muted">{markup.escape(count)}</p>']
        image = figure(own)
        if image is not None:
            data = base64.b64encode(image).decode()
            blocks.append(
                f'<figure><div class="card scroll"><img alt="{name}" '
                f'src="data:image/png;base64,{data}"></div><figcaption>{NOTE}</figcaption></figure>'
            )
        rows = [list(map(markup.escape, _cells(metric))) for metric in ordered(own)]
        if rows:
            blocks.append(markup.table(["", "value", "", "over"], rows))
        known = (own.get("identity") or {}).items()
        identity = [f"{k} {v[:12] if len(v) == 64 else v}" for k, v in known if v]
        blocks.append(f'<p class="muted">{markup.escape(tables.line(", ".join(identity)))}</p>')
    return "\n".join(blocks)


def bars(summary: Summary) -> dict[str, list[Bar]]:
    """{title: bars} of a summary's panels: of each metric its categories, with all rows first; or
    one panel of all metrics where there are no categories. What has no error is not drawn."""
    drawn: list[tuple[str, str, Bar]] = []
    for metric in ordered(summary):
        value, se = tables.number(metric.get("value")), tables.number(metric.get("se"))
        if math.isfinite(value) and math.isfinite(se):
            category = tables.line(metric.get("category") or "")
            name = tables.line(metric.get("name"))
            drawn.append((name, category, Bar(category or "all rows", value, LEVEL * se)))
    names = list(dict.fromkeys(name for name, category, _ in drawn if category))
    if names:
        panels = {name: [own for other, _, own in drawn if other == name] for name in names}
        return {name: own[:MOST] for name, own in list(panels.items())[:PANELS]}
    return {"all rows": [own._replace(label=name) for name, _, own in drawn[:MOST]]}


def figure(summary: Summary) -> bytes | None:
    """PNG of a summary's bars with their intervals; None where there is nothing to draw."""
    panels = {name: own for name, own in bars(summary).items() if own}
    if not panels:
        return None
    across = 1 if len(panels) == 1 else 2
    down = -(-len(panels) // across)
    longest = max(map(len, panels.values()))
    fig, axes = figures.canvas(down, across, height=down * (0.8 + 0.26 * longest))
    for ax, (name, own) in zip(axes, panels.items(), strict=False):
        places = range(len(own))
        colours = [figures.PALETTE[7 if bar.label == "all rows" else 0] for bar in own]
        ax.barh(places, [bar.value for bar in own], color=colours, height=0.62, zorder=2)
        ax.errorbar(
            [bar.value for bar in own], places, xerr=[bar.reach for bar in own], fmt="none",
            ecolor=figures.INK, elinewidth=1.1, capsize=2.5, zorder=3,
        )  # fmt: skip
        ax.set_yticks(places, [figures.plain(bar.label) for bar in own])
        ax.invert_yaxis()
        ax.axvline(0, color=figures.MUTED, lw=0.8, zorder=1)
        ax.set_title(figures.plain(name), fontsize=10, color=figures.INK, loc="left")
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    return figures.png(fig)
