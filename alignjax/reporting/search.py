"""The picture of a search: accuracy against the number of samples."""

from collections.abc import Mapping

import numpy as np

from alignjax.evals import estimate
from alignjax.reporting import figures


def accuracy(curves: Mapping[str, Mapping[int, estimate.Estimate]], title: str = "") -> bytes:
    """PNG of accuracy by method, with standard errors, against samples on a scale of doublings."""
    fig, (ax,) = figures.canvas(1, 1, height=4.2)
    sizes = sorted({n for curve in curves.values() for n in curve})
    for place, (name, curve) in enumerate(curves.items()):
        numbers = sorted(curve)
        # Side by side, so that error bars can be told apart.
        shifted = np.array(numbers) * 2.0 ** (0.05 * (place - (len(curves) - 1) / 2))
        ax.errorbar(
            shifted,
            [curve[n].value for n in numbers],
            yerr=[curve[n].se for n in numbers],
            color=figures.PALETTE[place % len(figures.PALETTE)],
            marker=figures.MARKERS[place % len(figures.MARKERS)],
            ms=5.5, mec="white", mew=0.7, lw=1.2, elinewidth=1.1, capsize=2,
            label=figures.plain(name.replace("_", " ")),
        )  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes, [str(n) for n in sizes])
    ax.minorticks_off()
    ax.set(xlabel="samples of a prompt", ylabel="share of prompts answered right")
    if title:
        ax.set_title(figures.plain(title), fontsize=10, color=figures.INK, loc="left")
    ax.legend(loc="best", fontsize=8.5, framealpha=0.95)
    return figures.png(fig)
