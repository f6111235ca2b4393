"""Records KTOTrainer of TRL 1.16.0: its own `_compute_loss`, fed with log-probabilities.

In an environment with `pip install torch==2.13.0 trl==1.16.0`, from the root of the repository:
python -m tests.conformance.record_trl_1_16_unpaired
"""

import types
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from trl.trainer.kto_trainer import KTOTrainer

from tests.conformance import golden, record, two_tokens

# How far the policy has moved, in nats per token, on all answers: z0 is 0 in the first, above 0 in
# the second; in the third all answers are desirable, in the last one sigmoids are saturated.
MOVES = (-0.3, 0.3, 0.1, 8.0)
WEIGHTS = {"beta": 0.3, "desirable_weight": 1.2, "undesirable_weight": 0.7}
METHODS = ("kto", "apo_zero_unpaired")
OTHER = "mismatched_"


def draw(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    out: dict[str, np.ndarray] = {}
    for name in ("", OTHER):
        mask = record.ragged_mask(rng)
        logprobs = record.logprobs(rng, mask)
        reference = record.near(rng, logprobs - MOVES[seed] * mask, mask)
        out |= {
            f"{name}mask": mask,
            f"{name}logprobs": logprobs,
            f"reference_{name}logprobs": reference,
        }
    out["desirable"] = rng.permutation(np.arange(record.B) % 2)
    if seed == 2:
        out["desirable"] = np.ones(record.B, np.int64)
    return out


class Told(torch.nn.Module):
    """Says given log-probabilities, as TRL's fused head does: of answers, or of mismatched ones."""

    is_gradient_checkpointing = False

    def __init__(self, answers: torch.Tensor, mismatched: torch.Tensor) -> None:
        super().__init__()
        self.says = [answers, mismatched]

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor, **_: Any) -> Any:
        told = self.says[int(input_ids[0, 0])] * (labels[:, 1:] != -100)
        zeros = torch.zeros_like(told)
        return types.SimpleNamespace(log_probs=told, entropy=zeros, mean_logits=zeros)


def run(method: str, options: dict[str, Any], arrays: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss. TRL's log-probabilities start at the second token: no mask counts the first."""
    made = KTOTrainer.__new__(KTOTrainer)
    made.accelerator = two_tokens.accelerator()
    made.loss_type, made.calculate_KL = method, method == "kto"
    made.beta = options["beta"]
    made.desirable_weight = options.get("desirable_weight", 1.0)
    made.undesirable_weight = options.get("undesirable_weight", 1.0)
    made.precompute_ref_logps = made.aux_loss_enabled = False
    made.args = types.SimpleNamespace(gradient_checkpointing_kwargs=None)
    made._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    made._total_train_tokens, made._tp_size = 0, 1
    made.model = Told(arrays["logprobs"][:, 1:], arrays[f"{OTHER}logprobs"][:, 1:])
    made.ref_model = Told(
        arrays["reference_logprobs"][:, 1:], arrays[f"reference_{OTHER}logprobs"][:, 1:]
    )
    mask, other = arrays["mask"], arrays[f"{OTHER}mask"]
    batch = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "KL_input_ids": torch.ones_like(other),
        "KL_attention_mask": torch.ones_like(other),
        "KL_completion_mask": other,
        "label": arrays["desirable"],
    }
    return made._compute_loss(made.model, batch, return_outputs=False)


def main() -> None:
    versions = record.versions(trl="1.16.0")
    found = [
        record.golden(
            lambda arrays, m=method, o=options: run(m, o, arrays),
            draw(seed),
            wrt=("logprobs", f"{OTHER}logprobs"),
            preset="trl-1.16",
            method=method,
            options=options,
            seed=seed,
        )
        for method in METHODS
        for options in ({"beta": 0.3}, WEIGHTS)
        for seed in range(len(MOVES))
    ]
    print(golden.save("trl-1.16-unpaired", found, versions), len(found))


if __name__ == "__main__":
    main()
