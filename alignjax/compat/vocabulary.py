"""The words of a recipe: kinds of rows, what is read from them, and which options switch it off."""

from collections.abc import Mapping
from typing import Any

import jax

# What a recipe trains on; "estimates" are no losses: they return arrays.
TABLES: Mapping[str, str] = {
    "documents": "plain text, every token counted",
    "demonstrations": "prompts with an answer to imitate",
    "pairs": "two answers to a prompt, one preferred",
    "rankings": "several answers to a prompt in an order",
    "unpaired": "single answers, desirable or not",
    "scored": "single answers with a number or a label",
    "steps": "answers whose steps are labelled",
    "rollouts": "sampled answers with advantages",
    "distillation": "tokens with a teacher's distribution",
    "estimates": "rewards, advantages, returns and coefficients for the losses on rollouts",
}
# A loss on tokens of demonstrations is one on documents too.
ALSO_FITS: Mapping[str, frozenset[str]] = {"demonstrations": frozenset({"documents"})}

# What a recipe may read besides the policy's log-probabilities and masks, with the arrays that each
# stands for; a * is any text.
READS: Mapping[str, tuple[str, ...]] = {
    # other models
    "reference": ("reference_*logprobs",),  # of a frozen policy, in a pass of its own
    "teacher": ("teacher_*",),  # logits, or log-probabilities of the sampled tokens
    "old": ("old_logprobs",),  # the policy that sampled, by the trainer's own computation
    "sampler": ("sampler_logprobs",),  # the policy that sampled, by the sampler's computation
    # further answers
    "gold": ("gold_*",),  # a third answer to imitate
    "mismatched": ("*mismatched_*",),  # KTO: answers set against other prompts; their mean is z0
    "other": ("*other_*",),  # XPO: the reference's sample beside the policy's
    "prompt": ("chosen_sequence_mask",),  # ORPO: log-probabilities of the prompt's tokens too
    # statistics of the policy's distribution over tokens
    "sum_p2": ("*sum_p2",),
    "logsumexp": ("logsumexp",),
    "mean_logit": ("mean_logits",),
    "entropy": ("entropy",),
    "student": ("student_logits",),
    # columns of the data
    "desirable": ("desirable",),
    "desirable_probability": ("desirable_probability",),
    "margin": ("margin",),
    "ties": ("ties",),
    "accuracies": ("accuracies",),
    "ranks": ("ranks",),
    "targets": ("targets",),
    "labels": ("labels",),
    # heads of reward models and critics
    "scores": ("scores", "chosen_scores", "rejected_scores"),
    "logits": ("logits",),
    "values": ("values",),
    "old_values": ("old_values",),
    # what is kept from step to step
    "reference_point": ("reference_point",),  # KTO's z0, in place of mismatched answers
    "shift": ("shift",),  # BCO's running mean of rewards
    "coefficient": ("coefficient", "observed", "samples"),  # of an adaptive KL penalty
    # rollouts
    "advantages": ("advantages",),
    "rewards": ("rewards",),
    "reward_weights": ("reward_weights",),
    "greedy_rewards": ("greedy_rewards",),
    "returns": ("returns",),
    "preferences": ("preferences",),
    "preferred": ("preferred",),
    "token_weights": ("token_weights",),
    "key": ("key",),  # of random numbers
}

# Options that switch a read on: where a recipe has any of them, it reads so only if one is on.
SWITCHES: Mapping[str, tuple[str, ...]] = {
    "sum_p2": ("wpo",),
    "desirable_probability": ("udm",),
    "logsumexp": ("label_smoothing",),
    "mean_logit": ("label_smoothing",),
    "gold": ("nll_weight",),
    "reference": ("kl_weight",),
    "old": ("kl_weight",),
    "entropy": ("entropy_weight", "entropy_share"),
    "sampler": ("correction",),
}
# Options whose value leaves rows coupled by a statistic of the batch: quantiles of entropies.
COUPLING = frozenset({"entropy_share"})


def is_on(option: str, value: Any) -> bool:
    """Whether an option of that value does anything: not None, False or 0 (a share: not 1)."""
    if isinstance(value, jax.core.Tracer):
        return True
    return value != 1.0 if option == "entropy_share" else bool(value)
