"""Policy-gradient losses as their papers state them, and the advantages that go with them.

rho: pi / old of a token; s: of a response, to the power 1 / |y|; A: the advantage.
"""

from typing import Any

from alignjax.compat.recipe import Recipe

CLIP: dict[str, Any] = {"clip_low": 0.2, "clip_high": 0.2}
HIGHER: dict[str, Any] = {"clip_low": 0.2, "clip_high": 0.28}
SEQUENCE_CLIP: dict[str, Any] = {"clip_low": 3e-4, "clip_high": 4e-4}
CLIPPED = "-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A)"
TOKENS = "mean over all tokens"
ROW_MEAN = "mean over each row's tokens, then rows"


def _loss(
    link: str,
    score: str,
    reduction: str,
    formula: str,
    source: str,
    *,
    reads: tuple[str, ...] = (),
    terms: tuple[str, ...] = (),
    coupled: bool = False,
    **numbers: Any,
) -> Recipe:
    """A policy loss; without a ratio (score "") it does not read the old policy."""
    return Recipe(
        table="rollouts",
        score=score,
        link=link,
        reduction=reduction,
        terms=terms,
        term="policy",
        defaults=numbers,
        reads=frozenset({"advantages", *reads}),
        optional=frozenset({"old"} if score else ()),
        coupled=coupled,
        formula=formula,
        source=source,
    )


LOSSES = {
    "reinforce": _loss(
        "reinforce", "", "row_sum", "-A log pi; summed over tokens, mean over rows", "Williams 1992"
    ),
    "ppo_clip": _loss(
        "ppo_clip",
        "token",
        "token_mean",
        f"{CLIPPED}, at most -dual_clip A for A < 0; {TOKENS}",
        "Schulman et al. 2017, eq. 7; dual clip: Ye et al. 2020, eq. 5",
        **CLIP,
        dual_clip=None,
    ),
    "nash_md": Recipe(
        table="rollouts",
        link="nash_md_of_answers",
        reduction="row_mean",
        term="policy",
        defaults={"beta": 0.1},
        reads=frozenset({"reference", "preferences"}),
        formula="(beta sg(log pi - log ref) - (P - 1/2)) log pi, log-probabilities of whole "
        "answers; mean over rows",
        source="Munos et al. 2023, section 7",
    ),
    "xpo": Recipe(
        table="rollouts",
        link="xpo",
        reduction="row_mean",
        term="policy",
        defaults={"beta": 0.1, "optimism": 1e-5, "link": "dpo"},
        reads=frozenset({"reference", "other", "preferred"}),
        formula="-log sig(beta (chosen - rejected)) (or IPO's square) + optimism log pi of the "
        "reference's sample, sums over tokens; mean over rows",
        source="Xie et al. 2024, algorithm 1",
    ),
    "value_clip": Recipe(
        table="rollouts",
        link="value_clip",
        reduction="token_mean",
        term="value",
        defaults={"clip": 0.2, "weight": 1.0},
        reads=frozenset({"values", "old_values", "returns"}),
        formula="weight max((V - R)^2, (V_old + clip(V - V_old, -clip, clip) - R)^2) / 2; "
        "mean over all tokens",
        source="Schulman et al. 2017, section 5; Huang et al. 2022, detail 9",
    ),
    "grpo": _loss(
        "ppo_clip",
        "token",
        "row_mean",
        f"{CLIPPED} + kl_weight k3; {ROW_MEAN}",
        "Shao et al. 2024, eq. 3",
        reads=("reference",),
        terms=("kl",),
        **CLIP,
        kl_weight=0.04,
    ),
    "dr_grpo": _loss(
        "ppo_clip",
        "token",
        "row_fixed",
        f"{CLIPPED}; summed over each row's tokens / length, then mean over rows",
        "Liu et al. 2025, section 3.2",
        **CLIP,
        length=3000.0,
    ),
    "dapo": _loss(
        "ppo_clip",
        "token",
        "token_mean",
        f"{CLIPPED}; mean over all tokens of the batch",
        "Yu et al. 2025, eq. 10, averaged as implementations do",
        **HIGHER,
    ),
    "dapo_per_prompt": _loss(
        "ppo_clip",
        "token",
        "group_mean",
        f"{CLIPPED}; mean over all tokens of a prompt's group_size rows, then prompts",
        "Yu et al. 2025, eq. 8",
        **HIGHER,
        group_size=16,
    ),
    "bnpo": _loss(
        "ppo_clip",
        "token",
        "token_mean",
        f"{CLIPPED}; mean over all tokens of the batch (TRL: of the micro-batch)",
        "the name is TRL's",
        **CLIP,
    ),
    "cispo": _loss(
        "cispo",
        "token",
        "token_mean",
        f"-sg(clip(rho, minimum_ratio, maximum_ratio)) A log pi; {TOKENS}",
        "MiniMax 2025 (M1), eqs. 4 and 5; the bound is ours",
        maximum_ratio=5.0,
        minimum_ratio=0.0,
    ),
    "gspo": _loss(
        "ppo_clip",
        "sequence",
        "row_mean",
        "-min(s A, clip(s, 1 - clip_low, 1 + clip_high) A); mean over rows",
        "Zheng et al. 2025, eq. 5",
        **SEQUENCE_CLIP,
    ),
    "gspo_token": _loss(
        "ppo_clip",
        "sequence_token",
        "row_mean",
        f"as gspo with sg(s) pi / sg(pi) for s; {ROW_MEAN}",
        "Zheng et al. 2025, eq. 13",
        **SEQUENCE_CLIP,
    ),
    "sapo": _loss(
        "sapo",
        "token",
        "row_mean",
        f"-A (4/tau) sig(tau (rho - 1)); {ROW_MEAN}",
        "Gao et al. 2025 (arXiv 2511.20347)",
        positive_temperature=1.0,
        negative_temperature=1.05,
    ),
    "gmpo": _loss(
        "gmpo",
        "response",
        "row_mean",
        "-A exp(mean over tokens of clipped log rho); mean over rows",
        "Zhao et al. 2025 (arXiv 2507.20673)",
        clip_low=0.4,
        clip_high=0.4,
    ),
    "luspo": _loss(
        "ppo_clip",
        "sequence",
        "row_sum",
        "|y| times the loss of gspo; mean over rows",
        "arXiv 2602.05261",
        **SEQUENCE_CLIP,
    ),
    "vespo": _loss(
        "vespo",
        "response",
        "token_mean",
        f"-sg(w^k exp(lam (1 - w))) A log pi, w = pi(y) / old(y); {TOKENS}",
        "Shen et al. 2026 (arXiv 2602.10693)",
        positive=(2.0, 3.0),
        negative=(3.0, 2.0),
    ),
    "rloo": _loss(
        "reinforce", "", "row_sum", "-A log pi(y); mean over rows", "Ahmadian et al. 2024"
    ),
    "rloo_clip": _loss(
        "ppo_clip",
        "response",
        "row_mean",
        "-min(R A, clip(R, 1 - clip_low, 1 + clip_high) A), R = pi(y) / old(y); mean over rows",
        "PPO's clip on the responses of Ahmadian et al. 2024",
        **CLIP,
    ),
    "clip_cov": _loss(
        "clip_cov",
        "token",
        "token_mean",
        f"{CLIPPED}, without gradient on a random share of tokens with covariance in "
        f"[minimum, maximum]; {TOKENS}",
        "Cui et al. 2025 (arXiv 2505.22617)",
        reads=("key",),
        coupled=True,
        fraction=2e-4,
        minimum=1.0,
        maximum=5.0,
        clip_low=1.0,
        clip_high=1.0,
    ),
    "kl_cov": _loss(
        "kl_cov",
        "token",
        "token_mean",
        f"-rho A + penalty |log rho| on the tokens of highest covariance; {TOKENS}",
        "Cui et al. 2025 (arXiv 2505.22617)",
        coupled=True,
        fraction=2e-4,
        penalty=1.0,
    ),
    "dppo": _loss(
        "dppo",
        "token",
        "token_mean",
        "-sg(min(rho, maximum_ratio)) A log pi, 0 on tokens that moved by more than the threshold "
        f"with A; {TOKENS}",
        "DPPO 2026 (arXiv 2602.04879)",
        threshold=0.2,
        measure="tv",
        maximum_ratio=20.0,
    ),
}


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


# Rewards [B, N] of N samples of B prompts, NaN where missing; [B, T] of tokens for gae and
# reinforce_plus_plus.
ADVANTAGES = {
    "group_relative": _estimate(
        "group_relative",
        "(r - mean) / (std + eps) over the samples of a prompt",
        "Shao et al. 2024, section 4.1.2; scale=False: Liu et al. 2025",
        scale=True,
        eps=1e-4,
        unbiased=True,
        spread="group",
    ),
    "leave_one_out": _estimate(
        "leave_one_out", "r - mean of the prompt's other samples", "Ahmadian et al. 2024"
    ),
    "gae": _estimate(
        "gae",
        "sum over l of (discount decay)^l delta_{t+l}",
        "Schulman et al. 2016, eq. 16",
        reads=("rewards", "values"),
        discount=1.0,
        decay=0.95,
    ),
    "whiten": _estimate(
        "",
        "(A - mean) / sqrt(variance + eps) over all tokens",
        "Huang et al. 2024",
        score="advantages",
        reduction="whitening",
        reads=("advantages",),
        shift_mean=True,
        eps=1e-8,
        unbiased=False,
    ),
    "gdpo": _estimate(
        "gdpo",
        "sum over rewards of weight (r - mean) / (std + eps), whitened over the batch",
        "Liu et al. 2026 (arXiv 2601.05242)",
        reads=("rewards", "reward_weights"),
        eps=1e-4,
    ),
    "reinforce_plus_plus": _estimate(
        "to_go",
        "returns to go, whitened over all tokens",
        "Hu 2025 (arXiv 2501.03262)",
        reduction="whitening",
        discount=1.0,
        eps=1e-8,
    ),
    "reinforce_plus_plus_baseline": _estimate(
        "group_baseline",
        "r - mean of the prompt's samples, whitened over the batch",
        "Hu 2025 (arXiv 2501.03262)",
        reduction="whitening_of_samples",
        eps=1e-8,
    ),
    "remax": _estimate(
        "remax",
        "r - r of the greedy answer",
        "Li et al. 2024 (arXiv 2310.10505)",
        reads=("rewards", "greedy_rewards"),
    ),
    "gpg": _estimate(
        "gpg",
        "(r - mean) prompts / prompts whose rewards differ",
        "Chu et al. 2025 (arXiv 2504.02546)",
    ),
    "opo": _estimate(
        "opo",
        "r - mean of the prompt's samples weighted by length",
        "Hao et al. 2025 (arXiv 2505.23585)",
    ),
    "max_rl": _estimate(
        "max_rl",
        "(r - mean) / mean over the samples of a prompt, 0 where the mean is not positive",
        "MaxRL 2026 (arXiv 2602.02710)",
    ),
    "pass_at_k": _estimate(
        "pass_at_k",
        "r - second largest r for the best sample of a prompt, 0 for the others",
        "Tang et al. 2025 (arXiv 2503.19595)",
    ),
    "otb": _estimate(
        "otb",
        "return to go - mean over the prompt's samples weighted by the energy of their gradients",
        "verl 0.9, adv_estimator 'optimal_token_baseline'",
        reads=("rewards", "old", "sum_p2"),
    ),
}
RECIPES = {**LOSSES, **ADVANTAGES}
