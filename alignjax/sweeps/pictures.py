"""Pictures of a sweep: every seed of every arm by measure, and learning curves."""

import math
import pathlib
from typing import Any

import numpy as np

from alignjax.evals import estimate, significance
from alignjax.reporting import figures
from alignjax.sweeps import folder, judged, numbers, record

PANELS = 6


def arms(measured: numbers.Values, own: record.Sweep) -> bytes | None:
    """PNG, a panel for each measure: an arm a line, seeds as points, the mean's 95% interval."""
    shown = [
        m
        for m in own.measures[:PANELS]
        if any(judged.summary(measured[a][m.name]).n for a in own.arms)
    ]
    if not shown:
        return None
    across = 1 if len(shown) == 1 else 2
    down = -(-len(shown) // across)
    fig, axes = figures.canvas(down, across, height=down * (0.9 + 0.28 * len(own.arms)))
    for ax, measure in zip(axes, shown, strict=False):
        for place, arm in enumerate(own.arms):
            values = [x for x in measured[arm][measure.name].values() if math.isfinite(x)]
            colour = figures.PALETTE[7 if arm == own.baseline else 0]
            ax.plot(values, [place] * len(values), "o", ms=3.5, alpha=0.55, color=colour, mew=0)
            if values:
                mean = estimate.mean(np.array(values))
                low, high = significance.t_interval(mean, judged.LEVEL)
                reach = [[mean.value - low], [high - mean.value]] if len(values) > 1 else None
                ax.errorbar(
                    [mean.value], [place], xerr=reach, fmt="|", ms=11, color=figures.INK,
                    elinewidth=1.1, capsize=2.5,
                )  # fmt: skip
        ax.set_yticks(range(len(own.arms)), [figures.plain(arm) for arm in own.arms])
        ax.set_ylim(len(own.arms) - 0.5, -0.5)
        ax.locator_params(axis="x", nbins=5)
        ax.set_title(figures.plain(measure.name), fontsize=10, color=figures.INK, loc="left")
    for ax in axes[len(shown) :]:
        ax.set_visible(False)
    return figures.png(fig)


def curves(sweep: pathlib.Path, plan: folder.Plan) -> bytes | None:
    """PNG with a panel for each curve that the sweep names; None without any number."""
    wanted = plan.own.curves[:PANELS]
    cells = folder.cells(sweep, plan)
    drawn = {
        pair: [(cell, *numbers.series(cell.folder / pair[0], pair[1])) for cell in cells]
        for pair in wanted
    }
    drawn = {pair: [own for own in rows if len(own[1])] for pair, rows in drawn.items()}
    drawn = {pair: rows for pair, rows in drawn.items() if rows}
    if not drawn:
        return None
    across = 1 if len(drawn) == 1 else 2
    down = -(-len(drawn) // across)
    fig, axes = figures.canvas(down, across, height=0.5 + 3.2 * down)
    for ax, ((stage, key), rows) in zip(axes, drawn.items(), strict=False):
        _panel(ax, rows, list(plan.own.arms))
        ax.set(xlabel="step", ylabel=figures.plain(key))
        ax.set_title(figures.plain(stage or key), fontsize=10, color=figures.INK, loc="left")
    axes[0].legend(fontsize=7.5, framealpha=0.9)
    for ax in axes[len(drawn) :]:
        ax.set_visible(False)
    return figures.png(fig)


def _panel(
    ax: Any, rows: list[tuple[folder.Cell, np.ndarray, np.ndarray]], names: list[str]
) -> None:
    for place, arm in enumerate(names):
        own = [(steps, values) for cell, steps, values in rows if cell.arm == arm]
        if not own:
            continue
        colour = figures.PALETTE[place % len(figures.PALETTE)]
        style = ("-", "--", ":")[place // len(figures.PALETTE) % 3]
        for steps, values in own:
            ax.plot(steps, figures.smoothed(values), color=colour, lw=0.5, alpha=0.4, ls=style)
        common = min((steps for steps, _ in own), key=len)
        mean = np.mean([np.interp(common, steps, values) for steps, values in own], axis=0)
        ax.plot(
            common, figures.smoothed(mean), color=colour, lw=1.6, ls=style, label=figures.plain(arm)
        )
