"""The two figures of a report, as PNG bytes: gold reward against KL, and learning curves.

Drawn through matplotlib's objects on the Agg canvas: no pyplot, no window, no global state.
"""

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignjax.reporting import tables

# Okabe and Ito (2008), told apart by colour-blind readers; black is left to the exact curve.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F5539", "#5C6670")
MARKERS = "osD^vPX*"
INK, MUTED, GRID = "#1d2329", "#5c6670", "#e3e7ea"
WIDTH, DPI = 7.0, 200  # inches, dots per inch: 1400 pixels, two for each CSS pixel of the report

Rows = Sequence[Mapping[str, Any]]


class Point(NamedTuple):
    """One method in the plane of KL and reward, with standard errors of both coordinates."""

    label: str
    x: float
    y: float
    x_se: float
    y_se: float


def families(results: Mapping[str, Any]) -> dict[str, str]:
    """Every family with its colour, in order of appearance."""
    names = dict.fromkeys(tables.family(row) for row in results.get("rows") or [])
    return dict(zip(names, itertools.cycle(PALETTE), strict=False))


def points(results: Mapping[str, Any]) -> dict[str, list[Point]]:
    """The finite (KL, gold) points of each family in order of KL."""
    exact = results.get("frontier") or {}
    groups: dict[str, list[Point]] = {}
    for row in results.get("rows") or []:
        x, x_se = tables.measure(row, str(exact.get("x") or "kl"))
        y, y_se = tables.measure(row, str(exact.get("y") or "gold"))
        if math.isfinite(x) and math.isfinite(y):
            label = str(row.get("label") or row.get("stage") or "")
            short = label.removeprefix(tables.family(row)).strip(" :,-") or label
            errors = (e if 0 < e < math.inf else 0.0 for e in (x_se, y_se))
            groups.setdefault(tables.family(row), []).append(Point(short, x, y, *errors))
    return {name: sorted(group, key=lambda p: p.x) for name, group in groups.items()}


def frontier(results: Mapping[str, Any]) -> bytes | None:
    """PNG of gold reward against KL under the exact optimum; None where there is no frontier.

    KL is drawn on a square-root scale: near the reference the optimum's gain grows as sqrt(KL)
    (Gao et al. 2022, section 3), and small and large budgets are both readable.
    """
    exact = results.get("frontier") or {}
    if not exact:
        return None
    groups, colours, lines = points(results), families(results), []
    fig, (ax,) = canvas(1, 1, height=4.7)
    ax.set_xscale("function", functions=(_root, lambda x: x * np.abs(x)))
    curve = _curve(exact)
    _limits(ax, [p for group in groups.values() for p in group], curve)
    handles = []
    own = exact.get("own") or {}
    for item in [exact, *(exact.get("bounds") or []), *([own] if own else [])]:
        style = {"color": INK, "lw": 1.8} if item is exact else {"color": MUTED, "ls": "--"}
        label = plain(item.get("label") or "exact optimum")
        handles += ax.plot(*_curve(item).T, label=label, **style)
    if len(curve):
        lines.append(curve)
    edge = edge_of(exact)
    if len(edge):
        ax.fill_between(*edge.T, ax.get_ylim()[1], color="#eef0f2", lw=0, zorder=0.5)
    for (name, group), marker in zip(groups.items(), itertools.cycle(MARKERS), strict=False):
        xy = np.array([[p.x, p.y] for p in group])
        lines.append(xy)
        ax.plot(*xy.T, color=colours[name], lw=1.0, alpha=0.55, zorder=3)
        style = {"color": colours[name], "marker": marker, "ms": 5.5, "mec": "white", "mew": 0.7}
        style |= {"ls": "none", "elinewidth": 1.1, "capsize": 2, "zorder": 4}
        errors = {"xerr": [p.x_se for p in group], "yerr": [p.y_se for p in group]}
        handles.append(ax.errorbar(*xy.T, **errors, **style, label=plain(name)))
    ax.set_xlabel("KL from the reference policy (nats, square-root scale)")
    names = {column.get("key"): column.get("label") for column in results.get("columns") or []}
    ax.set_ylabel(plain(names.get(exact.get("y") or "gold") or "gold reward"))
    ax.legend(handles=handles, loc="upper left", fontsize=8.5, framealpha=0.95)
    spots = [(p, colours[name]) for name, group in groups.items() for p in group]
    _write_labels(fig, ax, spots, lines)
    return png(fig)


def edge_of(exact: Mapping[str, Any]) -> np.ndarray:
    """[n, 2] of the line above which nothing can lie: the exact optimum, where it bounds these
    policies, else that of the model that they start from; empty where neither is known."""
    if exact.get("is_bound", True):
        return _curve(exact)
    return _curve(exact.get("own") or {})


def curves(results: Mapping[str, Any], rows: Mapping[str, Rows]) -> bytes | None:
    """PNG of one panel per stage and key, raw and smoothed; None where no curve is asked for."""
    panels = [(c, str(key)) for c in results.get("curves") or [] for key in c.get("keys") or []]
    if not panels:
        return None
    across = 1 if len(panels) == 1 else 2 if len(panels) <= 4 else 3
    down = math.ceil(len(panels) / across)
    fig, axes = canvas(down, across, height=3.6 if across == 1 else 0.3 + 2.2 * down)
    for ax, (curve, key) in zip(axes, panels, strict=False):
        stage = str(curve.get("stage") or "")
        ax.set_title(plain(curve.get("label") or stage), fontsize=10, color=INK, loc="left")
        ax.set(xlabel="step", ylabel=plain(key))
        _curve_panel(ax, *series(rows.get(stage, ()), key))
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    return png(fig)


def series(rows: Rows, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps in order and the values of a key; of a step written twice the last row counts."""
    kept = {tables.number(row.get("step")): tables.number(row[key]) for row in rows if key in row}
    steps = sorted(step for step in kept if math.isfinite(step))
    values = np.array([kept[step] for step in steps], np.float64)
    return np.array(steps), np.where(np.abs(values) < 1e30, values, np.nan)


def smoothed(values: np.ndarray) -> np.ndarray:
    """Centred Gaussian mean, sd 1/40 of the series; nan weighs nothing, ends are renormalised."""
    sd = max(len(values) / 40, 0.5)
    reach = np.arange(-math.ceil(3 * sd), math.ceil(3 * sd) + 1)
    kernel = np.exp(-0.5 * np.square(reach / sd))
    finite = np.isfinite(values)
    middle = slice(len(reach) // 2, len(reach) // 2 + len(values))
    total = np.convolve(np.where(finite, values, 0.0), kernel)[middle]
    weight = np.convolve(finite.astype(np.float64), kernel)[middle]
    return np.where(weight > 1e-6, total / np.maximum(weight, 1e-6), np.nan)


def _root(x: Any) -> Any:
    return np.sign(x) * np.sqrt(np.abs(x))


def plain(value: Any) -> str:
    """A label that fits, and in which a dollar sign starts no formula."""
    line = tables.line(value)
    return (line if len(line) <= 36 else line[:35] + "…").replace("$", r"\$")


def _curve(item: Mapping[str, Any]) -> np.ndarray:
    """[n, 2] finite points of a line in order of KL."""
    pairs = zip(item.get("kl") or [], item.get("gold") or [], strict=False)
    xy = np.array([[tables.number(x), tables.number(y)] for x, y in pairs]).reshape(-1, 2)
    xy = xy[np.isfinite(xy).all(axis=1)]
    return xy[np.argsort(xy[:, 0], kind="stable")]


def _limits(ax: Any, spots: Sequence[Point], curve: np.ndarray) -> None:
    """Room for every point and its errors, and the exact curve over the same budgets."""
    xs = [e for p in spots for e in (p.x - p.x_se, p.x + p.x_se)]
    ys = [e for p in spots for e in (p.y - p.y_se, p.y + p.y_se)]
    right = 1.12 * max([0.0, *xs]) or max(curve[:, 0], default=0.0) or 1.0
    if len(curve):
        ys += [*curve[curve[:, 0] <= right, 1], np.interp(right, *curve.T)]
    low, high = min(ys, default=0.0), max(ys, default=1.0)
    if spots and max(p.y for p in spots) > low:  # far above every point the curve may leave
        high = min(high, low + 1.7 * (max(p.y + p.y_se for p in spots) - low))
    pad = 0.06 * (high - low) or 1.0
    ax.set(xlim=(min([-4e-4 * right, *xs]), right), ylim=(low - pad, high + pad))
    ticks = [0.0]
    for tick in (m * 10.0**e for e in range(-3, 9) for m in (1, 2, 5)):
        if tick <= right and _root(tick) - _root(ticks[-1]) > 0.07 * _root(right):
            ticks.append(tick)
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


def _curve_panel(ax: Any, steps: np.ndarray, values: np.ndarray) -> None:
    if not np.isfinite(values).any():
        ax.text(0.5, 0.5, "no data", transform=ax.transAxes, ha="center", color=MUTED)
        return
    smooth, dots = smoothed(values), "." if np.isfinite(values).sum() < 3 else None
    ax.plot(steps, values, color=PALETTE[5], lw=0.8, alpha=0.6, marker=dots)
    ax.plot(steps, smooth, color=PALETTE[0], lw=1.7, marker=dots)
    # One spike does not flatten a curve: the axis follows the middle 99% and the smoothed line.
    low = min(np.nanpercentile(values, 0.5), np.nanmin(smooth))
    high = max(np.nanpercentile(values, 99.5), np.nanmax(smooth))
    pad = 0.06 * (high - low) or 0.05 * abs(high) or 0.1
    ax.set_ylim(low - pad, high + pad)


def _write_labels(fig: Any, ax: Any, spots: Sequence[tuple[Point, str]], lines: Any) -> None:
    """Writes every point's label in the freest of 32 places around it: greedy, in pixels."""
    from matplotlib import colors, transforms

    fig.canvas.draw()  # fixes the axes' position
    pixels, frame = ax.transData.transform, ax.get_window_extent()
    busy = [np.repeat(pixels([[p.x, p.y]]), 20, axis=0) for p, _ in spots]
    for path in map(pixels, lines):
        along = np.append(0, np.cumsum(np.hypot(*np.diff(path, axis=0).T)))
        every = np.arange(0, along[-1] + 1, 2.0)  # a dot every two pixels
        busy.append(np.column_stack([np.interp(every, along, c) for c in path.T]))
    taken = [ax.get_legend().get_window_extent()]
    for point, shade in spots:
        tone = [0.72 * part for part in colors.to_rgb(shade)]  # thin strokes read paler
        text = ax.text(0, 0, plain(point.label), fontsize=8, color=tone, zorder=6, in_layout=False)
        size, spot = text.get_window_extent(), pixels((point.x, point.y))
        half, places = np.array([size.width, size.height]) / 2, []
        for reach, turn in itertools.product((16, 30, 50, 76), range(8)):
            away = np.array([math.cos(turn * math.pi / 4), math.sin(turn * math.pi / 4)])
            middle = spot + away * (half + reach)
            box = transforms.Bbox([middle - half - 4, middle + half + 4])
            hidden = sum(int(box.count_contains(dots)) for dots in busy)
            outside = not (frame.contains(*box.p0) and frame.contains(*box.p1))
            cost = hidden + 200 * box.count_overlaps(taken) + 500 * outside + reach / 5
            places.append((cost, box))
        _, box = min(places, key=lambda place: place[0])
        taken.append(box)
        lower, upper = box.p0 + 4, box.p1 - 4
        start, edge = ax.transData.inverted().transform([lower, np.clip(spot, lower, upper)])
        text.set(position=start, va="bottom", ha="left")
        if (
            np.abs(np.clip(spot, lower, upper) - spot).max() > 20
        ):  # far from its point: draw a leader line
            ax.plot([point.x, edge[0]], [point.y, edge[1]], color=tone, lw=0.5, alpha=0.7)


def canvas(down: int, across: int, *, height: float) -> tuple[Any, list[Any]]:
    """(a figure, its axes row by row) in the style of the report; height in inches."""
    from matplotlib import figure
    from matplotlib.backends import backend_agg

    fig = figure.Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained", facecolor="white")
    backend_agg.FigureCanvasAgg(fig)
    axes = list(fig.subplots(down, across, squeeze=False).flat)
    for ax in axes:
        ax.grid(True, color=GRID, lw=0.8)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(MUTED)
        ax.tick_params(colors=MUTED, labelsize=8.5)
    return fig, axes


def png(fig: Any) -> bytes:
    """A figure as a file."""
    out = io.BytesIO()
    fig.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
    return out.getvalue()
