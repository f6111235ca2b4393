"""Random batches with every array that a recipe may read, in the shapes of its method."""

import jax
import numpy as np

ROWS, TIME, VOCAB, SAMPLES = 8, 6, 5, 2
PROMPTS = ROWS // SAMPLES
ANSWERS = ("", "chosen_", "rejected_", "gold_", "mismatched_", "other_")
# Estimators whose rewards are those of tokens, [B, T]; all others read one a sample, [P, N].
TOKEN_REWARDS = {
    ("paper", "gae"),
    ("paper", "reinforce_plus_plus"),
    *[(preset, name) for preset in ("trl-1.12", "tunix-0.1.7", "verl-0.9")
      for name in ("gae", "returns")],
    ("verl-0.9", "reinforce_plus_plus"),
    ("verl-0.9", "remax"),
}  # fmt: skip
# Options without which a recipe does not run.
REQUIRED = {
    ("verl-0.9", "dro"): {"beta": 0.3},
    ("verl-0.9", "kl_loss"): {"estimator": "k3"},
    ("openrlhf-0.11", "kl_loss"): {"estimator": "k3"},
    **{
        ("tunix-0.1.7", name): {"estimator": "k3"}
        for name in ("grpo", "dr_grpo", "dapo", "gspo_token")
    },
    ("paper", "dapo_per_prompt"): {"group_size": SAMPLES},
}
# Values away from the default, of options that switch a part of a recipe on.
SWITCHED = {
    "wpo": True, "ld_alpha": 0.3, "udm": True, "nll_weight": 0.7, "divergence": "js",
    "label_smoothing": 0.2, "kl_weight": 0.3, "entropy_weight": 0.2, "center_coefficient": 0.1,
    "reduction": "row_mean", "correction": "token", "exact_gradient": True,
    "off_policy_threshold": 0.1, "level": "sequence", "normalise": False, "whiten": True,
    "estimator": "k2", "dual_clip": 3.0, "alpha": 0.4,
}  # fmt: skip


def required(preset: str, method: str) -> dict:
    return REQUIRED.get((preset, method), {})


def variants(preset: str, method: str, defaults: dict) -> list[dict]:
    """The options that a recipe needs, alone and with each part that options switch on."""
    options = [required(preset, method)]
    for name, value in SWITCHED.items():
        if name not in defaults or (method == "kl_penalty" and name == "estimator"):
            continue
        if (preset, method, name) in {("trl-1.12", "rewards", "estimator")}:
            continue
        if method == "gspo" and name == "correction":
            value = True
        options.append({**options[0], name: value})
    return options


def batch(preset: str, method: str, seed: int = 0) -> dict:
    """Every array that the method may read, and others that it must leave alone."""
    rng = np.random.default_rng(seed)
    arrays = {**_answers(rng), **_rows(rng), **_tokens(rng), **_scalars()}
    arrays["key"] = jax.random.key(seed)
    arrays |= _by_method(preset, method, rng)
    return {
        name: x.astype(np.float32) if getattr(x, "dtype", None) == np.float64 else x
        for name, x in arrays.items()
    }


def _answers(rng: np.random.Generator) -> dict:
    """Log-probabilities under policy and reference, and masks, of answers inside rows of text."""
    arrays = {}
    slots = np.arange(TIME)[None]
    start = rng.integers(0, TIME - 1, ROWS)[:, None]
    for text in ANSWERS:
        start = start if text != "" else 0 * start
        end = start + rng.integers(1, TIME - start[:, 0] + 1)[:, None]
        logprobs = -rng.exponential(1.0, (ROWS, TIME)) - 0.01
        arrays |= {
            f"{text}mask": ((slots >= start) & (slots < end)).astype(int),
            f"{text}sequence_mask": (slots < end).astype(int),
            f"{text}logprobs": logprobs,
            f"reference_{text}logprobs": logprobs + 0.7 * rng.normal(size=logprobs.shape),
            f"{text}sum_p2": rng.uniform(0.1, 0.9, (ROWS, TIME)),
        }
    for name in ("old", "sampler", "teacher"):
        near = arrays["logprobs"] + 0.3 * rng.normal(size=(ROWS, TIME))
        arrays[f"{name}_logprobs"] = np.minimum(near, -0.01)
    return arrays


def _rows(rng: np.random.Generator) -> dict:
    names = ("advantages", "targets", "chosen_scores", "rejected_scores", "margin", "scores")
    return {
        **{name: rng.normal(size=ROWS) for name in names},
        "desirable": np.array([1, 0, 0, 1, 1, 0, 1, 0]),
        "desirable_probability": rng.uniform(0.1, 0.9, ROWS),
        "preferences": rng.uniform(size=ROWS),
        "ties": rng.uniform(size=ROWS),
        "accuracies": rng.uniform(0.5, 1.0, ROWS),
        "preferred": np.array([1, 0] * (ROWS // 2)),
        "greedy_rewards": rng.normal(size=ROWS),
        "rewards": rng.normal(size=(PROMPTS, SAMPLES)),
    }


def _tokens(rng: np.random.Generator) -> dict:
    names = ("values", "old_values", "returns", "logsumexp", "mean_logits")
    shape = (ROWS, TIME)
    return {
        **{name: rng.normal(size=shape) for name in names},
        "token_logprobs": -rng.exponential(1.0, shape) - 0.01,
        "token_weights": rng.uniform(0.5, 1.5, shape),
        "entropy": rng.exponential(1.0, shape),
        "student_logits": rng.normal(size=(*shape, VOCAB)),
        "teacher_logits": rng.normal(size=(*shape, VOCAB)),
    }


def _scalars() -> dict:
    numbers = {
        "reference_point": 0.2, "shift": 0.1, "coefficient": 0.2, "observed": 0.3, "samples": 64.0
    }  # fmt: skip
    return {name: np.float32(x) for name, x in numbers.items()}


def _by_method(preset: str, method: str, rng: np.random.Generator) -> dict:
    """Arrays whose shape is this method's alone."""
    shape = (ROWS, TIME)
    if method in ("plackett_luce", "all_pairs"):
        mask = np.ones((ROWS, 3), int)
        mask[1, 2] = mask[3, 1:] = mask[6] = 0
        return {"scores": rng.normal(size=(ROWS, 3)), "ranks": rng.random((ROWS, 3)), "mask": mask}
    if method == "outcome_reward":
        return {"logits": rng.normal(size=ROWS), "labels": rng.random(ROWS)}
    if method == "process_reward":
        tail = (2,) if preset == "trl-1.13" else ()
        return {"logits": rng.normal(size=(*shape, *tail)), "labels": rng.random(shape)}
    if (preset, method) == ("tunix-0.1.7", "forward_kl"):
        return {"labels": rng.integers(0, VOCAB, shape)}
    if method == "gdpo":
        return {"rewards": rng.normal(size=(PROMPTS, SAMPLES, 3)), "reward_weights": rng.random(3)}
    if (preset, method) in TOKEN_REWARDS:
        return {"rewards": rng.normal(size=shape)}
    if (preset, method) == ("paper", "remax"):
        return {"rewards": rng.normal(size=ROWS)}
    if method == "whiten" or (preset, method) == ("verl-0.9", "gmpo"):
        return {"advantages": rng.normal(size=shape)}
    return {}
