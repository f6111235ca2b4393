"""TRL 1.13.0, for the trainers that later releases removed."""

from alignjax.compat.trl_1_13 import language, policy, unpaired

RECIPES = {**language.RECIPES, **policy.RECIPES, **unpaired.RECIPES}
