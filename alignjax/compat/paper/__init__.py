"""The formulas of the papers: the default."""

from alignjax.compat.paper import judgements, language, pairs, policy, reference_free, unpaired

RECIPES = {
    **judgements.RECIPES,
    **language.RECIPES,
    **pairs.RECIPES,
    **policy.RECIPES,
    **reference_free.RECIPES,
    **unpaired.RECIPES,
}
