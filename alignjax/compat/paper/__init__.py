"""The formulas of the papers: the default."""

from alignjax.compat.paper import language, pairs, policy, reference_free, unpaired

RECIPES = {
    **language.RECIPES,
    **pairs.RECIPES,
    **policy.RECIPES,
    **reference_free.RECIPES,
    **unpaired.RECIPES,
}
