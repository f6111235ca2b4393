"""Group relative policy optimization and its kin: ratios of tokens or sequences, no critic."""

import dataclasses

from alignjax.algorithms import policy_gradient


@dataclasses.dataclass(kw_only=True)
class GrpoConfig(policy_gradient.PolicyGradientConfig):
    """A critic-free loss on groups of samples (Shao et al. 2024; Liu et al. 2025; Yu et al. 2025).

    method: grpo, dr_grpo, dapo, bnpo, gspo, gspo_token, cispo, sapo, gmpo, luspo, vespo, clip_cov,
    kl_cov, dppo and others of the preset (`alignjax methods`). Numbers that are None are the
    preset's own; one that its recipe does not have is an error.
    """

    method: str = "dapo"  # a loss on rollouts of the preset
    compat: str = "paper"  # whose formula, reduction and defaults
    clip_low: float | None = None  # the ratio is clipped at 1 - clip_low
    clip_high: float | None = None  # and 1 + clip_high
    dual_clip: float | None = None  # bound of the loss of tokens with A < 0, in units of -A
    kl_weight: float | None = None  # of the KL to the reference in the loss, per nat
    kl_corrected: bool | None = None  # times the ratio
    kl_cap: float | None = None  # nats a token
    estimator: str | None = None  # of that KL: k1, k2, k3, ...
    entropy_weight: float | None = None  # of an entropy bonus
    entropy_share: float | None = None  # only the tokens in the top share of entropies
    off_policy_threshold: float | None = None  # drops bad rows that far from the sampler, nats
    level: str | None = None  # of the ratio: token, sequence, sequence_token
    reduction: str | None = None  # what is averaged over what
    length: float | None = None  # tokens that sums over rows are divided by
    maximum_ratio: float | None = None  # of CISPO's and DPPO's weights
    minimum_ratio: float | None = None
    positive_temperature: float | None = None  # of SAPO's gates
    negative_temperature: float | None = None
    positive: tuple[float, ...] | None = None  # of VESPO's weights: power and rate for A > 0
    negative: tuple[float, ...] | None = None
    fraction: float | None = None  # of tokens: clip-cov, KL-cov
    penalty: float | None = None  # KL-cov
    minimum: float | None = None  # bounds of clip-cov's covariances
    maximum: float | None = None
    threshold: float | None = None  # how far a token may move (DPPO)
    measure: str | None = None  # of that: tv or kl
    beta: float | None = None  # DRO
    sampler_level: str | None = None  # the release's own weights of trainer over sampler
    sampler_beyond: str | None = None
    sampler_maximum: float | None = None
    sampler_minimum: float | None = None


GrpoConfig.METHOD = policy_gradient.record("grpo")
