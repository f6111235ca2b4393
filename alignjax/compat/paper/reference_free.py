"""Losses on pairs without a reference model, as their papers state them; all are means over pairs.

Numbers are those of one setting of the paper's experiments; TPO's and TPO-L's are TRL's.
"""

import functools

from alignjax import losses
from alignjax.compat import reference_free
from alignjax.compat.recipe import Recipe

RECIPES = {
    "orpo": Recipe(
        compute=reference_free.per_pair(losses.orpo, per_token=True),
        formula="-m_c - ratio_weight log sig(log odds(m_c) - log odds(m_r)), "
        "odds(m) = e^m / (1 - e^m); mean over pairs",
        source="Hong et al. 2024, eq. 6",
        defaults={"ratio_weight": 0.1},
    ),
    "simpo": Recipe(
        compute=reference_free.per_pair(losses.simpo, per_token=True),
        formula="-log sig(beta (m_c - m_r) - target_margin); mean over pairs",
        source="Meng et al. 2024, eq. 6",
        defaults={"beta": 2.5, "target_margin": 1.375},
    ),
    "alphapo": Recipe(
        compute=reference_free.per_pair(losses.alphapo, per_token=True),
        formula="-log sig(beta (r_c - r_r) - target_margin), r = (1 - exp(-alpha m)) / alpha; mean "
        "over pairs",
        source="Gupta et al. 2025, Mistral-Instruct of table 3",
        defaults={"beta": 2.5, "target_margin": 0.25, "alpha": 0.25},
    ),
    "cpo": Recipe(
        compute=reference_free.per_pair(losses.cpo, per_token=False),
        formula="-(1-e) log sig(z) - e log sig(-z) - nll_weight l_c, z = beta (l_c - l_r), "
        "e = label_smoothing; mean over pairs",
        source="Xu et al. 2024, section 3",
        defaults={"beta": 0.1, "label_smoothing": 0.0, "nll_weight": 1.0},
    ),
    "tpo": Recipe(
        compute=functools.partial(reference_free.tpo, per_token=False),
        formula="-log sig(beta (l_c - l_r)) - nll_weight l_gold; mean over pairs",
        source="Saeidi et al. 2024 (TPO)",
        defaults={"beta": 0.01, "nll_weight": 1.0},
    ),
    "tpo_l": Recipe(
        compute=functools.partial(reference_free.tpo, per_token=True),
        formula="-log sig(beta (m_c - m_r) - target_margin) - nll_weight m_gold; mean over pairs",
        source="Saeidi et al. 2024 (TPO-L)",
        defaults={"beta": 0.01, "nll_weight": 1.0, "target_margin": 0.5},
    ),
    "slic": Recipe(
        compute=reference_free.slic,
        formula="max(0, target_margin - l_c + l_r) - nll_weight l_gold; mean over pairs",
        source="Zhao et al. 2023 (SLiC-HF), section 2",
        defaults={"target_margin": 1.0, "nll_weight": 0.5},
    ),
}
