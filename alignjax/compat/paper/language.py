"""Language models, reward models and distillation, as their papers state them."""

from alignjax.compat.recipe import Recipe

TOKENS = "mean over all counted tokens"
DISTILLATION = f"p teacher, q student, of logits / temperature; {TOKENS}"

RECIPES = {
    "token_nll": Recipe(
        table="demonstrations",
        link="token_nll",
        reduction="token_mean",
        formula=f"-log p; {TOKENS}",
        source="Ouyang et al. 2022, section 3.1 (supervised fine-tuning)",
    ),
    "dft": Recipe(
        table="demonstrations",
        link="dft",
        reduction="token_mean",
        formula=f"-stop_gradient(p) log p; {TOKENS}",
        source="Wu et al. 2025, arXiv 2508.05629",
    ),
    "smoothed_nll": Recipe(
        table="demonstrations",
        link="smoothed_nll",
        reduction="token_mean",
        reads=frozenset({"logsumexp", "mean_logit"}),
        formula="-(1-e) log p + e (logsumexp(z) - mean(z)), e = label_smoothing, z logits; "
        + TOKENS,
        source="Szegedy et al. 2016, section 7",
        defaults={"label_smoothing": 0.1},
    ),
    "z_loss": Recipe(
        table="demonstrations",
        link="z_loss",
        reduction="token_mean",
        reads=frozenset({"logsumexp"}),
        formula=f"coefficient logsumexp(z)^2, z logits; {TOKENS}",
        source="Chowdhery et al. 2022, section 5",
        defaults={"coefficient": 1e-4},
    ),
    "bradley_terry": Recipe(
        table="pairs",
        score="head",
        link="bradley_terry",
        reduction="mean over pairs",
        terms=("center",),
        reads=frozenset({"scores"}),
        optional=frozenset({"margin"}),
        formula="-(1-e) log sig(d) - e log sig(-d), d = s_c - s_r - margin, e = label_smoothing; "
        "+ center_coefficient (s_c + s_r)^2; mean over pairs",
        source="Ouyang et al. 2022, eq. 1; margin: Touvron et al. 2023, eq. 2; "
        "centring: Eisenstein et al. 2023",
        defaults={"label_smoothing": 0.0, "center_coefficient": None},
    ),
    "plackett_luce": Recipe(
        table="rankings",
        score="head",
        link="plackett_luce",
        reduction="mean over prompts",
        reads=frozenset({"scores", "ranks"}),
        formula="sum over ranked i of logsumexp(s_j: rank_j >= rank_i) - s_i; mean over prompts "
        "with at least two items",
        source="Plackett 1975; Luce 1959; ties: Breslow 1974",
    ),
    "all_pairs": Recipe(
        table="rankings",
        score="head",
        link="all_pairs",
        reduction="mean over prompts",
        reads=frozenset({"scores", "ranks"}),
        formula="mean over pairs rank_i < rank_j of -log sig(s_i - s_j); mean over prompts with at "
        "least two items",
        source="Ouyang et al. 2022, eq. 1",
    ),
    "score_regression": Recipe(
        table="scored",
        score="head",
        link="squared",
        reduction="mean over answers",
        reads=frozenset({"scores", "targets"}),
        formula="(s - target)^2; mean over answers",
        source="least squares",
    ),
    "outcome_reward": Recipe(
        table="scored",
        score="head",
        link="cross_entropy",
        reduction="mean over answers",
        reads=frozenset({"logits", "labels"}),
        formula="-y log sig(z) - (1-y) log sig(-z); mean over answers",
        source="Cobbe et al. 2021",
    ),
    "process_reward": Recipe(
        table="steps",
        score="head",
        link="process_reward",
        reduction="token_mean",
        reads=frozenset({"logits", "labels"}),
        formula="-y log sig(z) - (1-y) log sig(-z) where a step ends; mean over all steps",
        source="Lightman et al. 2023; y in (0, 1): Wang et al. 2024",
    ),
    "forward_kl": Recipe(
        table="distillation",
        link="forward_kl",
        reduction="token_mean",
        reads=frozenset({"student", "teacher"}),
        formula=f"KL(p; q), {DISTILLATION}",
        source="Agarwal et al. 2024, section 2",
        defaults={"temperature": 1.0},
    ),
    "reverse_kl": Recipe(
        table="distillation",
        link="reverse_kl",
        reduction="token_mean",
        reads=frozenset({"student", "teacher"}),
        formula=f"KL(q; p), {DISTILLATION}",
        source="Agarwal et al. 2024, section 2",
        defaults={"temperature": 1.0},
    ),
    "generalised_jsd": Recipe(
        table="distillation",
        link="generalised_jsd",
        reduction="token_mean",
        reads=frozenset({"student", "teacher"}),
        formula="beta KL(p; m) + (1-beta) KL(q; m), m = beta p + (1-beta) q, KL(p; q) at beta = 0, "
        f"KL(q; p) at 1, {DISTILLATION}",
        source="Agarwal et al. 2024, eq. 1",
        defaults={"beta": 0.5, "temperature": 1.0},
    ),
}
