"""The formulas of the papers: the default."""

from alignjax.compat.paper import pairs

RECIPES = {**pairs.RECIPES}
