"""Losses on single answers, as their papers state them."""

from alignjax.compat.recipe import Recipe

RECIPES = {
    "kto": Recipe(
        table="unpaired",
        score="sum",
        divergence="reverse_kl",
        link="kto",
        reduction="mean over answers",
        reads=frozenset({"reference", "desirable", "mismatched"}),
        optional=frozenset({"reference_point"}),
        formula="w_D sig(beta (z0 - u)) if desirable, else w_U sig(beta (u - z0)), z0 = max(0, "
        "mean log-ratio of mismatched answers); mean over answers",
        source="Ethayarajh et al. 2024, eq. 8",
        defaults={"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
    ),
    "apo_zero_unpaired": Recipe(
        table="unpaired",
        score="sum",
        divergence="reverse_kl",
        link="kto_at_zero",
        reduction="mean over answers",
        reads=frozenset({"reference", "desirable"}),
        formula="1 - sig(beta u) if desirable, else sig(beta u); mean over answers",
        source="D'Oosterlinck et al. 2024, unpaired form of eq. 7",
        defaults={"beta": 0.1},
    ),
    "bco": Recipe(
        table="unpaired",
        score="sum",
        divergence="reverse_kl",
        link="bco",
        weight="udm",
        reduction="mean over each kind",
        reads=frozenset({"reference", "desirable", "shift", "desirable_probability"}),
        formula="-log sig(beta u - d) if desirable, else -w log sig(-(beta u - d)), d the array "
        "`shift`: half the sum of the running means of beta u of the two kinds; w = 1, or p/(1-p) "
        "within [minimum_weight, maximum_weight] with udm; mean over desirable + mean over "
        "undesirable answers",
        source="Jung et al. 2024, sections 4 and 5",
        defaults={"beta": 0.01, "udm": False, "minimum_weight": 0.5, "maximum_weight": 10.0},
    ),
}
