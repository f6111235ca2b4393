"""TRL 1.16.0."""

from alignjax.compat.releases.trl_1_16 import language, pairs, policy, reference_free, unpaired

RECIPES = {
    **language.RECIPES,
    **pairs.RECIPES,
    **policy.RECIPES,
    **reference_free.RECIPES,
    **unpaired.RECIPES,
}
