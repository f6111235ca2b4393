"""SFTTrainer, RewardTrainer, GKDTrainer and DistillationTrainer of TRL 1.16."""

from alignjax.compat.recipe import Recipe

TOKENS = "mean over all counted tokens of the global batch"
JSD = (
    "beta KL(p; m) + (1-beta) KL(q; m), m = beta p + (1-beta) q, KL(p; q) at beta = 0, KL(q; p) at "
    f"1, p teacher, q student, of logits / temperature; {TOKENS}"
)

RECIPES = {
    "token_nll": Recipe(
        table="demonstrations",
        link="token_nll",
        reduction="token_mean",
        formula=f"-log p; {TOKENS}",
        source="trainer/sft_trainer.py, loss_type='nll'",
    ),
    "dft": Recipe(
        table="demonstrations",
        link="dft",
        reduction="token_mean",
        formula=f"-stop_gradient(p) log p; {TOKENS}",
        source="trainer/sft_trainer.py, loss_type='dft'",
    ),
    "bradley_terry": Recipe(
        table="pairs",
        score="head",
        link="bradley_terry",
        reduction="mean over pairs",
        terms=("center",),
        reads=frozenset({"scores"}),
        optional=frozenset({"margin"}),
        formula="-log sig(s_c - s_r - margin) + center_coefficient (s_c + s_r)^2; mean over pairs",
        source="trainer/reward_trainer.py, RewardTrainer.compute_loss",
        defaults={"center_coefficient": None},
    ),
    # Its trainer samples at the configured temperature and compares distributions at 1.
    "generalised_jsd": Recipe(
        table="distillation",
        link="generalised_jsd",
        reduction="token_mean",
        reads=frozenset({"student", "teacher"}),
        formula=JSD,
        source="experimental/gkd/gkd_trainer.py, generalized_jsd_loss",
        defaults={"beta": 0.5, "temperature": 1.0},
    ),
    "distillation": Recipe(
        table="distillation",
        link="generalised_jsd",
        reduction="token_mean",
        reads=frozenset({"student", "teacher"}),
        formula=JSD,
        source="trainer/distillation_trainer.py, _chunked_divergence_loss",
        defaults={"beta": 1.0, "temperature": 1.0},
    ),
}
