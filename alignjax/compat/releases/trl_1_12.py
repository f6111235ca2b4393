"""PPOTrainer of TRL 1.12.0, the last release that holds it.

An answer is followed by one more slot, the first pad after EOS, if the batch is wide enough: TRL
puts the score there and trains a value for it. Masks count the answer alone, at least one token,
without gaps and from the first column on.
"""

from alignjax.compat.recipe import Recipe

SOURCE = "experimental/ppo/ppo_trainer.py"
GAE = {"discount": 1.0, "decay": 0.95, "whiten_rewards": False}
RECIPES = {
    "ppo_clip": Recipe(
        table="rollouts",
        score="token",
        link="ppo_clip",
        reduction="token_mean",
        term="policy",
        reads=frozenset({"advantages"}),
        optional=frozenset({"old"}),
        formula="-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A); mean over all tokens of "
        "the micro-batch",
        source=f"{SOURCE}, pg_loss",
        defaults={"clip_low": 0.2, "clip_high": 0.2},
    ),
    "value_clip": Recipe(
        table="rollouts",
        score="answer and next slot",
        link="value_clip",
        reduction="token_mean",
        term="value",
        reads=frozenset({"values", "old_values", "returns"}),
        formula="weight max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2) / 2; mean over "
        "all tokens of the micro-batch and the slot after each answer",
        source=f"{SOURCE}, vf_coef * vf_loss",
        defaults={"clip": 0.2, "weight": 0.1},
    ),
    "rewards": Recipe(
        table="estimates",
        link="score_in_next_slot",
        reads=frozenset({"scores", "old", "reference"}),
        formula="-kl_weight k per token, + the score in the slot after the answer (its last token "
        "if there is none)",
        source=f"{SOURCE}, rewards",
        defaults={"kl_weight": 0.05, "estimator": "k1"},
    ),
    "gae": Recipe(
        table="estimates",
        score="rewards",
        link="gae_to_next_slot",
        reduction="whitening_unbiased",
        reads=frozenset({"rewards", "values"}),
        formula="sum over l of (discount decay)^l delta_{t+l} over the answer and the slot after "
        "it; (A - mean) / sqrt(unbiased variance + 1e-8) over the answers' tokens; rewards "
        "first scaled likewise, without shift, if whiten_rewards",
        source=f"{SOURCE}, advantages",
        defaults=GAE,
    ),
    "returns": Recipe(
        table="estimates",
        score="rewards",
        link="returns_to_next_slot",
        reads=frozenset({"rewards", "values"}),
        formula="the advantages of gae before they are whitened, + V",
        source=f"{SOURCE}, returns",
        defaults=GAE,
    ),
}
