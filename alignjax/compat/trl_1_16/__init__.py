"""TRL 1.16.0."""

from alignjax.compat.trl_1_16 import language, pairs

RECIPES = {**language.RECIPES, **pairs.RECIPES}
