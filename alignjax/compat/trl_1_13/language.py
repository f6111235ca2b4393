"""PRMTrainer of TRL 1.13, the last release that has it."""

from alignjax.compat import language
from alignjax.compat.recipe import Recipe

RECIPES = {
    "process_reward": Recipe(
        compute=language.two_class_steps,
        formula="-y log sig(z) - (1-y) log sig(-z) at the separator after a step, z the right "
        "class's logit less the wrong's; mean over all labelled steps of the global batch",
        source="experimental/prm/prm_trainer.py, a token classifier of transformers",
    ),
}
