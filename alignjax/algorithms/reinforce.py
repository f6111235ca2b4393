"""REINFORCE and its baselines: RLOO, ReMax, REINFORCE++, or none."""

import dataclasses

from alignjax.algorithms import policy_gradient


@dataclasses.dataclass(kw_only=True)
class ReinforceConfig(policy_gradient.PolicyGradientConfig):
    """The policy gradient of whole completions, -A log pi (Williams 1992; Ahmadian et al. 2024).

    `advantages` tells the baseline: leave_one_out (RLOO), remax, reinforce_plus_plus, no_baseline
    or any other estimator.
    """

    method: str = "reinforce"  # or rloo_clip, ppo_clip and others on rollouts of the preset
    compat: str = "paper"  # whose formula, reduction and defaults
    advantages: str = "leave_one_out"  # estimator of the preset, or no_baseline
    clip_low: float | None = None  # of the ratio, where the method has one
    clip_high: float | None = None
    dual_clip: float | None = None
    reduction: str | None = None  # what is averaged over what
    length: float | None = None  # tokens that sums over rows are divided by


ReinforceConfig.METHOD = policy_gradient.record("reinforce")
