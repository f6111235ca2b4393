"""OpenRLHF 0.11: losses of models/loss.py, advantages of trainer/ppo_utils/experience_maker.py."""

from typing import Any

from alignjax.compat.recipe import Recipe

LOSS = "models/loss.py"
MAKER = "trainer/ppo_utils/experience_maker.py"
RATIOS = {"nll_weight": 0.0, "beta": 0.1}
CLIP = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": None}
REWARD = {"kl_weight": 0.01, "estimator": "k1", "cap": 10.0}
WITH_NLL = "plus nll_weight * mean over pairs of -log pi of the chosen answer per token"
TO_GO = "plus -kl_weight * KL, summed from the token on"


def _on_ratios(link: str, formula: str, source: str, **numbers: float) -> Recipe:
    """Of log-ratios summed over tokens; plus the chosen answers' NLL, averaged in each."""
    return Recipe(
        table="pairs",
        score="sum",
        divergence="reverse_kl",
        link=link,
        reduction="mean over pairs",
        terms=("chosen_answer_nll",),
        defaults={**RATIOS, **numbers},
        reads=frozenset({"reference"}),
        formula=f"{formula}; mean over pairs; {WITH_NLL}",
        source=source,
    )


def _estimate(
    score: str,
    link: str,
    formula: str,
    name: str,
    *,
    reduction: str = "",
    reads: tuple[str, ...] = (),
    **numbers: Any,
) -> Recipe:
    """An estimator of advantages, on rewards less a KL penalty."""
    return Recipe(
        table="estimates",
        score=score,
        link=link,
        reduction=reduction,
        defaults={**REWARD, **numbers},
        reads=frozenset({"rewards", "reference", *reads}),
        formula=formula,
        source=f"{MAKER}, estimator={name!r}",
    )


RECIPES = {
    "dpo": _on_ratios(
        "logistic",
        "-(1-e) log sig(beta (a - b)) - e log sig(-beta (a - b)), e = label_smoothing",
        f"{LOSS}, DPOLoss; trainer/dpo_trainer.py",
        label_smoothing=0.0,
    ),
    "ipo": _on_ratios(
        "squared",
        "(a - b - 1/(2 beta))^2, a and b summed over tokens",
        f"{LOSS}, DPOLoss with ipo; trainer/dpo_trainer.py",
    ),
    "bradley_terry": Recipe(
        table="pairs",
        score="head",
        link="bradley_terry",
        reduction="mean over pairs",
        reads=frozenset({"scores"}),
        optional=frozenset({"margin"}),
        formula="-log sig(s_c - s_r - margin); mean over pairs",
        source=f"{LOSS}, PairWiseLoss, and LogExpLoss (no margin)",
    ),
    "token_nll": Recipe(
        table="demonstrations",
        link="token_nll",
        reduction="token_mean",
        formula="-log pi; mean by `reduction`",
        source=f"{LOSS}, SFTLoss",
        defaults={"reduction": "token_mean"},
    ),
    "ppo_clip": Recipe(
        table="rollouts",
        score="token",
        link="ppo_clip",
        weight="sampler_gate",
        reduction="token_mean",
        reads=frozenset({"advantages", "sampler"}),
        optional=frozenset({"old"}),
        formula="-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A), at most -dual_clip A for "
        "A < 0, times the weight against the sampler; mean by `reduction`",
        source=f"{LOSS}, PolicyLoss with policy_loss_type='ppo'",
        defaults={
            **CLIP,
            "reduction": "token_mean",
            "correction": None,
            "beyond": "drop",
            "minimum": 0.5,
            "maximum": 5.0,
        },
    ),
    "gspo": Recipe(
        table="rollouts",
        score="sequence",
        link="ppo_clip_of_sampler",
        reduction="row_mean",
        reads=frozenset({"advantages", "sampler"}),
        optional=frozenset({"old"}),
        formula="-min(s A, clip(s, 1 - clip_low, 1 + clip_high) A), s against the sampler with "
        "`correction`; mean over rows",
        source=f"{LOSS}, PolicyLoss with policy_loss_type='gspo'",
        defaults={**CLIP, "correction": False},
    ),
    "value_clip": Recipe(
        table="rollouts",
        link="value_clip",
        reduction="token_mean",
        reads=frozenset({"values", "old_values", "returns"}),
        formula="max((V - R)^2, (clip(V, V_old -+ clip) - R)^2) / 2; mean by `reduction`",
        source=f"{LOSS}, ValueLoss",
        defaults={"clip": 0.5, "reduction": "token_mean"},
    ),
    "kl_loss": Recipe(
        table="rollouts",
        score="token",
        link="kl_cut",
        reduction="token_mean",
        term="kl",
        reads=frozenset({"reference"}),
        optional=frozenset({"old"}),
        formula="weight * KL to the reference by `estimator`, within +-10 nats, with "
        "`exact_gradient` that of rho k2 (rho <= 10, detached); mean by `reduction`; k1 without "
        "it is refused",
        source="models/utils.py, compute_approx_kl; trainer/ray/ppo_actor.py",
        defaults={
            "weight": 0.01,
            "estimator": "k1",
            "exact_gradient": False,
            "reduction": "token_mean",
        },
    ),
    "adaptive_kl": Recipe(
        table="estimates",
        link="adaptive_kl",
        reads=frozenset({"coefficient"}),
        formula="coefficient (1 + clip(observed / target - 1, -0.2, 0.2) samples / horizon); "
        "coefficient if target is None",
        source="trainer/ppo_utils/kl_controller.py",
        defaults={"target": None, "horizon": 10000.0},
    ),
    "gae": _estimate(
        "minus_kl",
        "gae",
        "sum over l of (discount decay)^l delta_{t+l} of token rewards, normalised over all tokens",
        "gae",
        reduction="normalisation",
        reads=("values",),
        discount=1.0,
        decay=1.0,
        normalise=True,
    ),
    "returns": _estimate(
        "minus_kl",
        "returns",
        "the advantages of gae before they are normalised, + V",
        "gae",
        reads=("values",),
        discount=1.0,
        decay=1.0,
    ),
    "reinforce_plus_plus": _estimate(
        "minus_kl",
        "to_go",
        f"score {TO_GO}, normalised over all tokens",
        "reinforce",
        reduction="normalisation",
        discount=1.0,
        normalise=True,
    ),
    "reinforce_plus_plus_baseline": _estimate(
        "group_baseline_minus_kl",
        "to_go",
        f"score minus the group's mean {TO_GO}, normalised over all tokens",
        "reinforce_baseline",
        reduction="normalisation",
        normalise=True,
    ),
    "leave_one_out": _estimate(
        "leave_one_out_minus_kl", "to_go", f"score minus the mean of the others {TO_GO}", "rloo"
    ),
    "group_relative": _estimate(
        "group_relative_minus_kl",
        "to_go",
        f"(score - mean) / (std + eps) of the group, or score - mean unless `scale`, {TO_GO}",
        "group_norm' and 'dr_grpo",
        scale=True,
        eps=1e-9,
    ),
    "flash_reinforce": _estimate(
        "batch_baseline_minus_kl",
        "to_go",
        f"score minus the batch's mean {TO_GO}",
        "flash_reinforce",
    ),
}
