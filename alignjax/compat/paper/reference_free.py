"""Losses on pairs without a reference model, as their papers state them; all are means over pairs.

Numbers are those of one setting of the paper's experiments; TPO's and TPO-L's are TRL's.
"""

from typing import Any

from alignjax.compat.recipe import Recipe


def _recipe(
    link: str,
    formula: str,
    source: str,
    *,
    score: str,
    divergence: str = "",
    reads: frozenset[str] = frozenset(),
    **numbers: Any,
) -> Recipe:
    """A loss that holds all terms of a pair."""
    return Recipe(
        table="pairs",
        score=score,
        divergence=divergence,
        link=link,
        reduction="mean over pairs",
        defaults=numbers,
        reads=reads,
        formula=f"{formula}; mean over pairs",
        source=source,
    )


GOLD = frozenset({"gold"})
RECIPES = {
    "orpo": _recipe(
        "orpo",
        "-m_c - ratio_weight log sig(log odds(m_c) - log odds(m_r)), odds(m) = e^m / (1 - e^m)",
        "Hong et al. 2024, eq. 6",
        score="mean",
        ratio_weight=0.1,
    ),
    "simpo": _recipe(
        "logistic_margin",
        "-log sig(beta (m_c - m_r) - target_margin)",
        "Meng et al. 2024, eq. 6",
        score="mean",
        beta=2.5,
        target_margin=1.375,
    ),
    "alphapo": _recipe(
        "logistic_margin",
        "-log sig(beta (r_c - r_r) - target_margin), r = (1 - exp(-alpha m)) / alpha",
        "Gupta et al. 2025, Mistral-Instruct of table 3",
        score="mean",
        divergence="power",
        beta=2.5,
        target_margin=0.25,
        alpha=0.25,
    ),
    "cpo": _recipe(
        "cpo",
        "-(1-e) log sig(z) - e log sig(-z) - nll_weight l_c, z = beta (l_c - l_r), "
        "e = label_smoothing",
        "Xu et al. 2024, section 3",
        score="sum",
        beta=0.1,
        label_smoothing=0.0,
        nll_weight=1.0,
    ),
    "tpo": _recipe(
        "tpo",
        "-log sig(beta (l_c - l_r)) - nll_weight l_gold",
        "Saeidi et al. 2024 (TPO)",
        score="sum",
        reads=GOLD,
        beta=0.01,
        nll_weight=1.0,
    ),
    "tpo_l": _recipe(
        "tpo",
        "-log sig(beta (m_c - m_r) - target_margin) - nll_weight m_gold",
        "Saeidi et al. 2024 (TPO-L)",
        score="mean",
        reads=GOLD,
        beta=0.01,
        nll_weight=1.0,
        target_margin=0.5,
    ),
    "slic": _recipe(
        "slic",
        "max(0, target_margin - l_c + l_r) - nll_weight l_gold",
        "Zhao et al. 2023 (SLiC-HF), section 2",
        score="sum",
        reads=GOLD,
        target_margin=1.0,
        nll_weight=0.5,
    ),
}
