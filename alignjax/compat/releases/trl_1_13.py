"""TRL 1.13.0, for what later releases removed: Nash-MD, XPO, GSPO-token, MiniLLM, BCO, PRM.

Arrays beside those of `alignjax.compat.blocks.policy`: preferences [B], the probability that the
policy's sample wins; for XPO the reference's sample as other_logprobs, reference_other_logprobs,
other_mask [B, T] and preferred [B], 1 where the policy's sample is the better one; for MiniLLM
teacher_logprobs [B, T] of the sampled tokens, and student_logits, teacher_logits [B, T, V].
"""

from alignjax.compat.recipe import Recipe

RECIPES = {
    "process_reward": Recipe(
        table="steps",
        score="head",
        link="two_class_process_reward",
        reduction="token_mean",
        reads=frozenset({"logits", "labels"}),
        formula="-y log sig(z) - (1-y) log sig(-z) at the separator after a step, z the right "
        "class's logit less the wrong's; mean over all labelled steps of the global batch",
        source="experimental/prm/prm_trainer.py, a token classifier of transformers",
    ),
    "nash_md": Recipe(
        table="rollouts",
        link="nash_md",
        reduction="row_mean",
        term="policy",
        defaults={"beta": 0.1},
        reads=frozenset({"reference", "preferences"}),
        formula="sum over tokens of (beta sg(log pi - log ref) - (P - 1/2)) log pi; mean over rows",
        source="experimental/nash_md/nash_md_trainer.py",
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
        source="experimental/xpo/xpo_trainer.py",
    ),
    "gspo_token": Recipe(
        table="rollouts",
        score="sequence_token",
        link="ppo_clip_two_sided",
        reduction="token_mean",
        terms=("kl",),
        term="policy",
        defaults={
            "clip_low": 0.2,
            "clip_high": 0.2,
            "dual_clip": None,
            "kl_weight": 0.0,
            "reduction": "token_mean",
        },
        reads=frozenset({"advantages", "reference"}),
        optional=frozenset({"old"}),
        formula="-min(min(s, dual_clip) A, clip(s, 1 - clip_low, 1 + clip_high) A) + kl_weight k3, "
        "s = sg(ratio of the response to 1/|y|) pi / sg(pi); mean over all tokens, or over each "
        "row's tokens, then rows",
        source="experimental/gspo_token/grpo_trainer.py, sequence_token",
    ),
    "minillm": Recipe(
        table="distillation",
        link="reverse_kl",
        reduction="token_mean",
        defaults={"temperature": 1.0},
        reads=frozenset({"student", "teacher"}),
        formula="KL(student; teacher) of softmax(logits / temperature); mean over all tokens; "
        "beside the policy loss of GRPO on minillm_advantages",
        source="experimental/minillm/minillm_trainer.py, single_step_decomposition",
    ),
    "minillm_advantages": Recipe(
        table="estimates",
        link="minillm",
        defaults={"discount": 0.0, "length_normalise": True},
        reads=frozenset({"teacher"}),
        formula="log teacher - log student of the token; if discount > 0 the discounted mean from "
        "it on (length_normalise), or discount^t times the discounted sum",
        source="experimental/minillm/minillm_trainer.py, rkl_advantage",
    ),
    "bco": Recipe(
        table="unpaired",
        score="sum",
        divergence="reverse_kl",
        link="bco",
        weight="udm",
        reduction="mean over answers",
        defaults={"beta": 0.1, "udm": False, "minimum_weight": 0.5, "maximum_weight": 10.0},
        reads=frozenset({"reference", "desirable", "shift", "desirable_probability"}),
        formula="-log sig(beta u - d) if desirable, else -w log sig(-(beta u - d)), d the array "
        "`shift`: the running mean of beta u over all answers of both kinds, this batch included; "
        "w = 1, or p/(1-p) within [minimum_weight, maximum_weight] with udm; mean over answers",
        source="experimental/bco/bco_trainer.py",
    ),
}
