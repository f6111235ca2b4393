"""google-tunix 0.1.7: losses of sft/dpo and rl/algo_core.py, logit distillation."""

from typing import Any

from alignjax.compat.recipe import Recipe

CORE = "rl/algo_core.py"
CLIP = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": None}
KL = {"kl_weight": 0.04, "estimator": "k1", "kl_cap": None}
TERMS = (
    "times token_weights if given, plus kl_weight * KL to the reference by `estimator` (its k1 is "
    "refused: as a loss it has expected gradient 0); mean by `reduction`"
)


def _policy(score: str, formula: str, source: str, **numbers: Any) -> Recipe:
    """A loss of grpo_loss_fn."""
    return Recipe(
        table="rollouts",
        score=score,
        link="ppo_clip",
        weight="token_weights",
        reduction="row_mean",
        terms=("kl",),
        defaults={**CLIP, "reduction": "row_mean", "length": None, **KL, **numbers},
        reads=frozenset({"advantages", "reference"}),
        optional=frozenset({"old", "token_weights"}),
        formula=f"{formula}; {TERMS}",
        source=source,
    )


def _estimate(
    link: str,
    formula: str,
    source: str,
    *,
    score: str = "rewards",
    reduction: str = "",
    reads: tuple[str, ...] = ("rewards",),
    **numbers: Any,
) -> Recipe:
    return Recipe(
        table="estimates",
        score=score,
        link=link,
        reduction=reduction,
        defaults=numbers,
        reads=frozenset(reads),
        formula=formula,
        source=source,
    )


RECIPES = {
    "dpo": Recipe(
        table="pairs",
        score="sum or ratio",
        divergence="reverse_kl",
        link="logistic",
        reduction="mean over pairs",
        reads=frozenset({"reference"}),
        formula="-(1-e) log sig(beta (a - b)) - e log sig(-beta (a - b)), e = label_smoothing; "
        "mean over pairs",
        source="sft/dpo/dpo_trainer.py, algorithm='dpo'",
        defaults={"beta": 0.1, "label_smoothing": 0.0},
    ),
    "orpo": Recipe(
        table="pairs",
        score="sum",
        link="odds_ratio",
        reduction="mean over pairs",
        terms=("chosen_answer_nll",),
        term="odds_ratio",
        formula="-log pi(y_c) / n_c + ratio_weight l(log odds_c - log odds_r), odds of "
        "P = pi(y), the product over tokens (in the paper P is its geometric mean); mean over "
        "pairs",
        source="sft/dpo/dpo_trainer.py, algorithm='orpo'",
        defaults={"ratio_weight": 0.1, "label_smoothing": 0.0},
    ),
    "grpo": _policy("token", "PPO's clip of rho", f"{CORE}, grpo_loss_fn; GRPOConfig"),
    "dr_grpo": _policy(
        "token",
        "PPO's clip of rho",
        f"{CORE}, grpo_loss_fn; DrGRPOConfig",
        reduction="row_fixed",
    ),
    "dapo": _policy(
        "token",
        "PPO's clip of rho",
        f"{CORE}, grpo_loss_fn; DAPOConfig",
        reduction="token_mean",
        clip_high=0.28,
        kl_weight=None,
    ),
    "gspo_token": _policy(
        "sequence_token",
        "PPO's clip of sg(s) pi / sg(pi)",
        f"{CORE}, grpo_loss_fn with loss_algo='gspo-token'",
    ),
    "ppo_clip": Recipe(
        table="rollouts",
        score="token",
        link="ppo_clip",
        reduction="token_mean",
        terms=("entropy",),
        reads=frozenset({"advantages", "entropy"}),
        optional=frozenset({"old"}),
        formula="PPO's clip of rho, minus entropy_weight * entropy; means over all tokens",
        source=f"{CORE}, ppo_policy_loss_fn",
        defaults={**CLIP, "entropy_weight": None},
    ),
    "value_clip": Recipe(
        table="rollouts",
        link="value_clip",
        reduction="token_mean",
        reads=frozenset({"values", "old_values", "returns"}),
        formula="max((V - R)^2, (clip(V, V_old -+ clip) - R)^2) / 2; mean over all tokens",
        source=f"{CORE}, ppo_value_loss_fn",
        defaults={"clip": 0.2},
    ),
    "forward_kl": Recipe(
        table="distillation",
        link="forward_kl_top_k",
        reduction="token_mean",
        terms=("label_nll",),
        term="distill",
        reads=frozenset({"student", "teacher", "labels"}),
        formula="distill_weight temperature^2 KL(teacher; student) of softmax(logits / "
        "temperature), over the teacher's top_k entries unless 0, plus (1 - distill_weight) times "
        "-log p of labels [B, T]; mean over counted tokens",
        source="distillation/strategies/logit.py",
        defaults={"temperature": 2.0, "distill_weight": 0.5, "top_k": 0},
    ),
    "kl_penalty": _estimate(
        "kl_penalty",
        "KL to the reference per token by `estimator`, within +-cap, no gradient",
        "rl/common.py, compute_kl_divergence; rl/ppo/ppo_learner.py",
        score="",
        reads=("reference",),
        estimator="k3",
        cap=None,
    ),
    "gae": _estimate(
        "gae",
        "sum over l of (discount decay)^l delta_{t+l}, whitened over all tokens (variance "
        "over n - 1)",
        f"{CORE}, compute_gae_advantages",
        reduction="whitening_unbiased",
        reads=("rewards", "values"),
        discount=1.0,
        decay=0.95,
    ),
    "returns": _estimate(
        "returns",
        "the advantages of gae before they are whitened, + V",
        f"{CORE}, compute_gae_advantages",
        reads=("rewards", "values"),
        discount=1.0,
        decay=0.95,
    ),
    "group_relative": _estimate(
        "group_relative",
        "(r - mean) / (std + eps) of the group, or r - mean unless `scale`, [P, N]",
        f"{CORE}, advantage estimators 'grpo' and 'drgrpo'",
        scale=True,
        eps=1e-6,
    ),
    "leave_one_out": _estimate(
        "leave_one_out",
        "r - mean of the others, [P, N]",
        f"{CORE}, advantage estimator 'rloo'",
    ),
}
