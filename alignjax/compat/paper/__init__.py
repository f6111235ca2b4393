"""The formulas of the papers: the default."""

from alignjax.compat.paper import language, pairs

RECIPES = {**language.RECIPES, **pairs.RECIPES}
