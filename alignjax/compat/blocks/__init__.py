"""Building blocks of recipes: functions by name, and for each kind of rows how they compose.

A block takes its own options by keyword, as named in its signature; the others never reach it.
"""

from alignjax.compat.blocks import (
    distillation,
    estimates,
    pairs,
    policy,
    rewards,
    tokens,
    unpaired,
)

# (recipe, arrays, options) -> {term: Mean}, or an array for estimates.
COMPUTE = {
    "demonstrations": tokens.compute,
    "distillation": distillation.compute,
    "documents": tokens.compute,
    "estimates": estimates.compute,
    "pairs": pairs.compute,
    "rankings": rewards.compute_rankings,
    "rollouts": policy.compute,
    "scored": rewards.compute_scored,
    "steps": tokens.compute,
    "unpaired": unpaired.compute,
}
# (recipe, arrays, options) -> the method's own reward of the answers.
REWARDS = {"pairs": pairs.rewards, "unpaired": unpaired.rewards}
