"""GRPOTrainer, RLOOTrainer and GMPOTrainer of TRL 1.16 by our names.

Ratios are not limited in TRL; ours are within e^+-20. With `row_mask` of ones, as in TRL, an answer
without a counted token counts in means over rows.
"""

from typing import Any

from alignjax.compat.recipe import Recipe

CLIP: dict[str, Any] = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": None}
# What every loss of GRPOTrainer can be combined with. The weights of the sampler apply to batches
# with sampler_logprobs; TRL's four modes are level and beyond.
COMMON: dict[str, Any] = {
    "level": "token",
    "kl_weight": 0.0,
    "kl_corrected": True,
    "entropy_weight": 0.0,
    "entropy_share": 1.0,
    "off_policy_threshold": None,
    "sampler_level": "sequence",
    "sampler_beyond": "drop",
    "sampler_maximum": 3.0,
    "sampler_minimum": None,
}
AROUND = (
    "times the sampler's weight, on the top entropy_share of tokens, + kl_weight rho k3 "
    "(k3 unless kl_corrected) - entropy_weight H (a token mean)"
)
SOURCE = "trainer/grpo_trainer.py"


def _recipe(
    link: str,
    formula: str,
    mean: str,
    options: str,
    *,
    reduction: str,
    score: str = "token",
    **numbers: Any,
) -> Recipe:
    """A loss of GRPOTrainer, with everything around it."""
    return Recipe(
        table="rollouts",
        score=score,
        link=link,
        weight="token_filter_and_sampler",
        reduction=reduction,
        terms=("kl", "entropy"),
        term="policy",
        defaults={**COMMON, **numbers},
        reads=frozenset({"advantages", "reference", "entropy"}),
        optional=frozenset({"old", "sampler"}),
        formula=f"{formula}, {AROUND}; {mean}",
        source=f"{SOURCE}, {options}",
    )


CLIPPED = "-min(min(rho, dual_clip) A, clip(rho, 1 - clip_low, 1 + clip_high) A), rho of `level`"
ROW_MEAN = "mean over each row's tokens, then rows"
LOSSES = {
    "grpo": _recipe(
        "ppo_clip_two_sided", CLIPPED, ROW_MEAN, "loss_type='grpo'", reduction="row_mean", **CLIP
    ),
    "gspo": _recipe(
        "ppo_clip_two_sided",
        CLIPPED,
        ROW_MEAN,
        "loss_type='grpo', importance_sampling_level='sequence'",
        reduction="row_mean",
        score="sequence",
        **CLIP | {"level": "sequence"},
    ),
    "bnpo": _recipe(
        "ppo_clip_two_sided",
        CLIPPED,
        "mean over all tokens of the micro-batch",
        "loss_type='bnpo'",
        reduction="token_mean",
        **CLIP,
    ),
    "dr_grpo": _recipe(
        "ppo_clip_two_sided",
        CLIPPED,
        "summed over each row's tokens / length, then mean over rows",
        "loss_type='dr_grpo'",
        reduction="row_fixed",
        **CLIP,
        length=512.0,
    ),
    "dapo": _recipe(
        "ppo_clip_two_sided",
        CLIPPED,
        "mean over all tokens of the batch",
        "loss_type='dapo'",
        reduction="token_mean",
        **CLIP,
    ),
    "luspo": _recipe(
        "ppo_clip_two_sided",
        CLIPPED,
        "summed over each row's tokens, then mean over rows",
        "loss_type='luspo'",
        reduction="row_sum",
        **CLIP,
    ),
    "cispo": _recipe(
        "cispo",
        "-sg(min(rho, maximum_ratio)) A log pi (the bound is epsilon_high itself, not 1 + it)",
        "mean over all tokens of the batch",
        "loss_type='cispo'",
        reduction="token_mean",
        maximum_ratio=0.2,
    ),
    "sapo": _recipe(
        "sapo",
        "-A (4/tau) sig(tau (rho - 1))",
        ROW_MEAN,
        "loss_type='sapo'",
        reduction="row_mean",
        positive_temperature=1.0,
        negative_temperature=1.05,
    ),
    "vespo": Recipe(
        table="rollouts",
        score="response",
        link="vespo_with_sampler",
        weight="token_filter",
        reduction="token_mean",
        terms=("kl", "entropy"),
        term="policy",
        reads=frozenset({"advantages", "reference", "entropy"}),
        optional=frozenset({"old", "sampler"}),
        formula="-sg(w^k exp(lam (1 - w))) A log pi, w = pi(y) / old(y) times the sampler's "
        "weights of tokens, + kl_weight rho k3 - entropy_weight H; mean over all tokens",
        source=f"{SOURCE}, loss_type='vespo'",
        defaults={
            **{k: v for k, v in COMMON.items() if k not in ("level", "sampler_level")},
            "positive": (2.0, 3.0),
            "negative": (3.0, 2.0),
        },
    ),
    "gmpo": Recipe(
        table="rollouts",
        score="response",
        link="gmpo",
        reduction="row_mean",
        terms=("kl",),
        term="policy",
        reads=frozenset({"advantages", "reference"}),
        optional=frozenset({"old"}),
        formula="-A exp(mean over tokens of clipped log rho) + kl_weight mean over tokens of k3; "
        "mean over rows",
        source="experimental/gmpo/gmpo_trainer.py",
        defaults={"clip_low": 0.4, "clip_high": 0.4, "kl_weight": 0.0},
    ),
    "rloo_clip": Recipe(
        table="rollouts",
        score="response",
        link="ppo_clip",
        reduction="row_mean",
        term="policy",
        reads=frozenset({"advantages"}),
        optional=frozenset({"old"}),
        formula="-min(R A, clip(R, 1 - clip_low, 1 + clip_high) A), R = pi(y) / old(y); "
        "mean over rows",
        source="trainer/rloo_trainer.py",
        defaults={"clip_low": 0.2, "clip_high": 0.2},
    ),
}

# Of rewards [B, N], NaN where no reward function gave a score.
ADVANTAGES = {
    "group_relative": Recipe(
        table="estimates",
        score="rewards",
        link="group_relative_by",
        reads=frozenset({"rewards"}),
        formula="(r - mean of the prompt's samples) / (std of them, or of the batch, + 1e-4)",
        source=f"{SOURCE}, scale_rewards",
        defaults={"scale": "group"},
    ),
    "gdpo": Recipe(
        table="estimates",
        score="rewards",
        link="gdpo_each_missing",
        reads=frozenset({"rewards", "reward_weights"}),
        formula="sum over rewards of weight (r - mean) / (std + 1e-4), then (A - mean) / "
        "(std + 1e-4) over the batch",
        source=f"{SOURCE}, multi_objective_aggregation='normalize_then_sum'",
    ),
    "leave_one_out": Recipe(
        table="estimates",
        score="rewards",
        link="leave_one_out_of_penalised",
        reads=frozenset({"rewards", "old", "reference"}),
        formula="clipped r - kl_weight sum over tokens of k1, minus the mean of the prompt's other "
        "samples; (A - mean) / (std + 1e-4) over the batch if whiten",
        source="trainer/rloo_trainer.py",
        defaults={"kl_weight": 0.05, "clip": None, "whiten": False},
    ),
}
RECIPES = {**LOSSES, **ADVANTAGES}
