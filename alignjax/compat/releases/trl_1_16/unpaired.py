"""KTOTrainer of TRL 1.16."""

from alignjax.compat.recipe import Recipe

WEIGHTS = {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0}

RECIPES = {
    "kto": Recipe(
        table="unpaired",
        score="sum",
        divergence="reverse_kl",
        link="kto",
        reduction="mean over answers",
        reads=frozenset({"reference", "desirable", "mismatched"}),
        optional=frozenset({"reference_point"}),
        formula="w_D (1 - sig(beta (u - z0))) if desirable, else w_U (1 - sig(beta (z0 - u))), "
        "z0 = max(0, mean log-ratio of answers set against the next prompt of the batch); mean "
        "over answers",
        source="trainer/kto_trainer.py, loss_type='kto'",
        defaults=WEIGHTS,
    ),
    "apo_zero_unpaired": Recipe(
        table="unpaired",
        score="sum",
        divergence="reverse_kl",
        link="kto_at_zero",
        reduction="mean over answers",
        reads=frozenset({"reference", "desirable"}),
        formula="w_D (1 - sig(beta u)) if desirable, else w_U sig(beta u); mean over answers",
        source="trainer/kto_trainer.py, loss_type='apo_zero_unpaired'",
        defaults=WEIGHTS,
    ),
}
