"""KTOTrainer of TRL 1.16."""

from alignjax.compat import unpaired
from alignjax.compat.recipe import Recipe

WEIGHTS = {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}

RECIPES = {
    "kto": Recipe(
        compute=unpaired.kto,
        formula="w_D (1 - sig(beta (u - z0))) if desirable, else w_U (1 - sig(beta (z0 - u))), "
        "z0 = max(0, mean log-ratio of answers set against the next prompt of the batch); mean "
        "over answers",
        source="trainer/kto_trainer.py, loss_type='kto'",
        defaults=WEIGHTS,
    ),
    "apo_zero_unpaired": Recipe(
        compute=unpaired.kto_at_zero,
        formula="w_D (1 - sig(beta u)) if desirable, else w_U sig(beta u); mean over answers",
        source="trainer/kto_trainer.py, loss_type='apo_zero_unpaired'",
        defaults=WEIGHTS,
    ),
}
