"""The formulas of the papers: the default."""

from alignjax.compat.paper import language, pairs, reference_free, unpaired

RECIPES = {**language.RECIPES, **pairs.RECIPES, **reference_free.RECIPES, **unpaired.RECIPES}
