"""Records DPOTrainer of TRL 1.16.0 on pairs: its own `_compute_loss`, fed with log-probabilities.

In an environment with `pip install torch==2.13.0 trl==1.16.0`, from the root of the repository:
python -m tests.conformance.record_trl_1_16_pairs
"""

import types
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from trl.trainer.dpo_trainer import DPOTrainer

from tests.conformance import golden, record

SEEDS = (0, 1, 2)
DIVERGED = ("dpo", "dpo_norm", "hinge", "ipo", "exo_pair", "robust_dpo", "discopop")
LOSS_TYPES = {
    "dpo": "sigmoid",
    "dpo_norm": "sigmoid_norm",
    "robust_dpo": "robust",
    "chosen_nll": "sft",
}
F_DIVERGENCES = {
    "reverse_kl": "reverse_kl",
    "forward_kl": "forward_kl",
    "js": "js_divergence",
    "alpha": "alpha_divergence",
}
CASES: list[tuple[str, dict[str, Any]]] = [
    *[(method, {"beta": 0.3}) for method in ("dpo", "dpo_norm", "hinge", "ipo", "discopop")],
    *[
        (method, {"beta": 0.3})
        for method in ("nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down")
    ],
    ("discopop", {"beta": 0.3, "temperature": 0.5}),
    ("exo_pair", {"beta": 0.3, "label_smoothing": 0.1}),
    ("robust_dpo", {"beta": 0.3, "flip_rate": 0.2}),
    *[
        (method, {"beta": 0.3, "label_smoothing": e})
        for method in ("aot", "aot_unpaired")
        for e in (0.0, 0.1)
    ],
    ("chosen_nll", {}),
    *[
        (method, {"beta": 0.3, "divergence": divergence, "alpha": alpha})
        for method in DIVERGED
        for divergence, alpha in (("forward_kl", 0.5), ("js", 0.5), ("alpha", 0.5), ("alpha", 0.2))
    ],
    *[("dpo", {"beta": 0.3, "ld_alpha": alpha}) for alpha in (0.0, 0.4)],
    ("ipo", {"beta": 0.3, "ld_alpha": 0.4, "wpo": True}),
    ("dpo", {"beta": 0.3, "wpo": True}),
    ("apo_zero", {"beta": 0.3, "wpo": True}),
]


def draw(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    out: dict[str, np.ndarray] = {}
    for side in ("chosen", "rejected"):
        mask = record.ragged_mask(rng)
        logprobs = record.logprobs(rng, mask)
        out |= {
            f"{side}_mask": mask,
            f"{side}_logprobs": logprobs,
            f"reference_{side}_logprobs": record.near(rng, logprobs, mask),
            f"{side}_sum_p2": rng.uniform(0.05, 0.9, mask.shape).astype(np.float32),
        }
    return out


def trainer(method: str, options: dict[str, Any]) -> DPOTrainer:
    """A DPOTrainer with the attributes that its loss reads, and nothing else."""
    options = {**options}
    made = DPOTrainer.__new__(DPOTrainer)
    made.accelerator = types.SimpleNamespace(
        device="cpu",
        gather_for_metrics=lambda x: x,
        gather=lambda x: x,
        unwrap_model=lambda model: model,
    )
    made.loss_types, made.loss_weights = [LOSS_TYPES.get(method, method)], [1.0]
    made.beta = options.pop("beta", 0.1)
    made.ld_alpha = options.pop("ld_alpha", None)
    made.use_weighting = options.pop("wpo", False)
    made.f_divergence_type = F_DIVERGENCES[options.pop("divergence", "reverse_kl")]
    made.f_alpha_divergence_coef = options.pop("alpha", 0.5)
    default = 1e-3 if method == "exo_pair" else 0.0
    made.label_smoothing = options.pop("label_smoothing", options.pop("flip_rate", default))
    made.precompute_ref_logps = False
    made.aux_loss_enabled = False
    made.args = types.SimpleNamespace(
        discopop_tau=options.pop("temperature", 0.05), gradient_checkpointing_kwargs=None
    )
    made._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    made._total_train_tokens, made._tp_size = 0, 1
    assert not options, options
    return made


class Told(torch.nn.Module):
    """A model that answers with given log-probabilities, as TRL's fused head does."""

    def __init__(self, logprobs: torch.Tensor, log_sum_sq: torch.Tensor) -> None:
        super().__init__()
        self.logprobs, self.log_sum_sq = logprobs, log_sum_sq

    is_gradient_checkpointing = False

    def forward(self, **_: Any) -> Any:
        zeros = torch.zeros_like(self.logprobs)
        return types.SimpleNamespace(
            log_probs=self.logprobs,
            log_sum_sq_probs=self.log_sum_sq,
            entropy=zeros,
            mean_logits=zeros,
            is_top1=zeros.bool(),
        )


def run(method: str, options: dict[str, Any], arrays: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss. TRL's log-probabilities start at the second token: no mask counts the first."""

    def both(name: str) -> torch.Tensor:
        return torch.cat([arrays[name.format(side)] for side in ("chosen", "rejected")])

    mask = both("{}_mask")
    made = trainer(method, options)
    # The fused head answers with 0 for tokens without a label.
    log_sum_sq, keep = both("{}_sum_p2")[:, 1:].log(), mask[:, 1:]
    made.model = Told(both("{}_logprobs")[:, 1:] * keep, log_sum_sq)
    made.ref_model = Told(both("reference_{}_logprobs")[:, 1:] * keep, log_sum_sq)
    batch = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
    }
    return made._compute_loss(made.model, batch, return_outputs=False)


def main() -> None:
    versions = record.versions(trl="1.16.0")
    found = [
        record.golden(
            lambda arrays, m=method, o=options: run(m, o, arrays),
            draw(seed),
            wrt=("chosen_logprobs", "rejected_logprobs"),
            wide=options.get("divergence") != "alpha",  # TRL's alpha divergence knows no float64
            preset="trl-1.16",
            method=method,
            options=options,
            seed=seed,
        )
        for method, options in CASES
        for seed in SEEDS
    ]
    print(golden.save("trl-1.16-pairs", found, versions), len(found))


if __name__ == "__main__":
    main()
