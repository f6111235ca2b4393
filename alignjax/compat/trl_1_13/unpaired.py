"""BCOTrainer of TRL 1.13 (trl.experimental)."""

from alignjax.compat import unpaired
from alignjax.compat.recipe import Recipe

RECIPES = {
    "bco": Recipe(
        compute=unpaired.bco(unpaired.reduced),
        formula="-log sig(beta u - d) if desirable, else -w log sig(-(beta u - d)), d the array "
        "`shift`: the running mean of beta u over all answers of both kinds, this batch included; "
        "w = 1, or p/(1-p) within [minimum_weight, maximum_weight] with udm; mean over answers",
        source="experimental/bco/bco_trainer.py",
        defaults={"beta": 0.1, "udm": False, "minimum_weight": 0.5, "maximum_weight": 10.0},
    ),
}
