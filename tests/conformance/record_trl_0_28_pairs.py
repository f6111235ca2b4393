"""Records DPOTrainer of TRL 0.28.0: its own `get_batch_loss_metrics` on a model of two tokens.

In an environment with `pip install torch==2.13.0 trl==0.28.0`, or with the unpacked wheel first on
the path, from the root of the repository: python -m tests.conformance.record_trl_0_28_pairs
"""

import types
from typing import Any

import numpy as np
import torch

from tests.conformance import golden, record, stubs, two_tokens

stubs.install("weave", "vllm_ascend", "llm_blender")

from trl.trainer import dpo_config, dpo_trainer, utils  # noqa: E402

SEEDS = (0, 1)
SIDES = ("chosen", "rejected")
LOSS_TYPES = {"dpo": "sigmoid", "robust_dpo": "robust", "chosen_nll": "sft"}
ENUM = dpo_config.FDivergenceType
F_DIVERGENCES = {
    "reverse_kl": ENUM.REVERSE_KL,
    "js": ENUM.JS_DIVERGENCE,
    "alpha": ENUM.ALPHA_DIVERGENCE,
}
BETA = {"beta": 0.3}
DIVERGED = ("dpo", "robust_dpo", "exo_pair", "hinge", "ipo")
ON_RATIOS = ("sppo_hard", "nca_pair", "bco_pair", "apo_zero", "apo_down", "discopop")
CASES: list[tuple[str, dict[str, Any]]] = [
    *[(method, BETA) for method in (*DIVERGED, *ON_RATIOS)],
    *[(m, {**BETA, "label_smoothing": e}) for m in ("aot", "aot_unpaired") for e in (0.0, 0.1)],
    ("dpo", {**BETA, "label_smoothing": 0.2}),
    ("robust_dpo", {**BETA, "flip_rate": 0.2}),
    ("exo_pair", {**BETA, "label_smoothing": 0.1}),
    ("discopop", {**BETA, "temperature": 0.5}),
    *[
        (method, {**BETA, "divergence": divergence, "alpha": alpha})
        for method in DIVERGED
        for divergence, alpha in (("js", 1.0), ("alpha", 1.0), ("alpha", 0.5))
    ],
    ("chosen_nll", {}),
    *[(method, {**BETA, "nll_weight": 0.7}) for method in ("dpo", "ipo", "nca_pair")],
]
NO_DIVERGENCE = (
    "the divergence has no effect in a run: the configuration makes it a string, which the trainer "
    "compares with an enum"
)
LD_POSITIONS = (
    "positions are counted from the start of the prompt, so that an answer loses as many of its "
    "last tokens as its prompt has, and the reference is not desensitised"
)
WPO_SHIFTED = (
    "log-probabilities are one position behind their normalisers: the weight leaves out the last "
    "token's log-probability"
)
LARGE_EXPONENT = "exponents are cut at 40 here and at 88 there, where squared gradients overflow"
DIFFERENT: list[tuple[str, dict[str, Any], str]] = [
    ("dpo", {**BETA, "divergence": "js"}, NO_DIVERGENCE),
    ("dpo", {**BETA, "divergence": "alpha", "alpha": 0.5}, NO_DIVERGENCE),
    ("dpo", {**BETA, "ld_alpha": 0.4}, LD_POSITIONS),
    ("dpo", {**BETA, "wpo": True}, WPO_SHIFTED),
    ("dpo", {**BETA, "divergence": "alpha", "alpha": 0.9}, LARGE_EXPONENT),
]


def draw(seed: int, *, far: bool = False) -> dict[str, np.ndarray]:
    """Two answers to one prompt; `far`: some log-ratios of tens of nats."""
    rng = np.random.default_rng(seed)
    slots = np.arange(record.T)[None]
    start = rng.integers(1, record.T - 2, record.B)
    out: dict[str, np.ndarray] = {}
    for side in SIDES:
        end = np.array([rng.integers(s + 1, record.T + 1) for s in start])
        mask = ((slots >= start[:, None]) & (slots < end[:, None])).astype(np.int64)
        logprobs = record.logprobs(rng, mask)
        p = np.exp(logprobs)
        reference = record.near(rng, logprobs, mask)
        if far:
            logprobs = np.where(mask, logprobs - 30.0, 0.0).astype(np.float32)
        out |= {
            f"{side}_mask": mask,
            f"{side}_logprobs": logprobs,
            f"reference_{side}_logprobs": reference,
            f"{side}_sum_p2": (p**2 + (1 - p) ** 2).astype(np.float32),
        }
    return out


def trainer(method: str, options: dict[str, Any], *, configured: bool) -> dpo_trainer.DPOTrainer:
    """A DPOTrainer with the attributes that its loss reads, and nothing else.

    configured: the divergence is what the configuration makes of it, not the enum.
    """
    options = {**options}
    made = dpo_trainer.DPOTrainer.__new__(dpo_trainer.DPOTrainer)
    made.accelerator = two_tokens.accelerator()
    made.running = utils.RunningMoments(made.accelerator)
    made.loss_type, made.loss_weights = [LOSS_TYPES.get(method, method)], None
    made.beta = options.pop("beta", 0.1)
    made.label_smoothing = options.pop("label_smoothing", options.pop("flip_rate", 0.0))
    made.f_divergence_type = F_DIVERGENCES[options.pop("divergence", "reverse_kl")]
    made.f_divergence_params = {"alpha_divergence_coef": options.pop("alpha", 1.0)}
    if configured:
        given = dpo_config.DPOConfig(
            output_dir="", use_cpu=True, bf16=False, f_divergence_type=made.f_divergence_type
        )
        made.f_divergence_type = given.f_divergence_type
    made.use_weighting = options.pop("wpo", False)
    made.args = types.SimpleNamespace(
        use_liger_kernel=False,
        rpo_alpha=options.pop("nll_weight", None),
        ld_alpha=options.pop("ld_alpha", None),
        discopop_tau=options.pop("temperature", 0.05),
    )
    assert not options, options
    made.pad_token_id, made.max_length = 0, None
    made.reference_free = made.aux_loss_enabled = made.is_encoder_decoder = False
    made.use_logits_to_keep = made.padding_free = made._peft_has_been_casted_to_bf16 = False
    return made


def batch_of(arrays: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Prompts padded on the left, answers on the right; TRL joins them and closes the gaps."""
    slots = torch.arange(record.T)
    start = arrays["chosen_mask"].argmax(dim=1, keepdim=True)
    prompt = (slots >= record.T - start).long()
    batch = {"prompt_input_ids": prompt * two_tokens.TOKEN, "prompt_attention_mask": prompt}
    for side in SIDES:
        answer = (slots < arrays[f"{side}_mask"].sum(dim=1, keepdim=True)).long()
        batch[f"{side}_input_ids"] = answer * two_tokens.TOKEN
        batch[f"{side}_attention_mask"] = answer
    return batch


def run(made: dpo_trainer.DPOTrainer, arrays: dict[str, torch.Tensor]) -> torch.Tensor:
    def both(name: str) -> torch.Tensor:
        return torch.cat([arrays[name.format(side)] for side in SIDES])

    made.model = two_tokens.Model(both("{}_logprobs"), both("{}_mask"))
    made.ref_model = two_tokens.Model(both("reference_{}_logprobs"), both("{}_mask"))
    return made.get_batch_loss_metrics(made.model, batch_of(arrays))[0]


def recorded(
    method: str, options: dict[str, Any], seed: int, difference: str = ""
) -> golden.Golden:
    inputs = draw(seed, far=difference == LARGE_EXPONENT)
    configured = difference == NO_DIVERGENCE
    if method == "bco_pair":  # a step comes first; then the mean that the second one uses is told
        made = trainer(method, options, configured=False)
        leaves = {name: torch.tensor(x) for name, x in draw(seed + 100).items()}
        run(made, leaves)
        before, steps = made.running.mean, made.running.count
        run(made, {name: record.leaf(x, False, True) for name, x in inputs.items()})
        inputs["shift"] = np.float32(made.running.mean)
        inputs["mean_before"], inputs["steps_before"] = np.float32(before), np.float32(steps)

    def call(arrays: dict[str, torch.Tensor]) -> torch.Tensor:
        made = trainer(method, options, configured=configured)
        if "mean_before" in arrays:
            made.running.mean = float(arrays["mean_before"])
            made.running.count = float(arrays["steps_before"])
        return run(made, arrays)

    return record.golden(
        call,
        inputs,
        wrt=("chosen_logprobs", "rejected_logprobs"),
        preset="trl-0.28",
        method=method,
        options=options,
        seed=seed,
        difference=difference,
    )


def main() -> None:
    versions = record.versions(trl="0.28.0")
    found = [recorded(m, options, seed) for m, options in CASES for seed in SEEDS]
    found += [recorded(m, options, seed, why) for m, options, why in DIFFERENT for seed in SEEDS]
    print(golden.save("trl-0.28-pairs", found, versions), len(found))


if __name__ == "__main__":
    main()
