"""Records SFTTrainer, RewardTrainer, GKDTrainer and DistillationTrainer of TRL 1.16.0.

Their own `compute_loss`, or the function that it calls, on log-probabilities, scores or logits. In
an environment with `pip install torch==2.13.0 trl==1.16.0`, from the root of the repository:
python -m tests.conformance.record_trl_1_16_language
"""

import types
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from trl.experimental.gkd import GKDTrainer
from trl.trainer import distillation_trainer
from trl.trainer.reward_trainer import RewardTrainer
from trl.trainer.sft_trainer import SFTTrainer

from tests.conformance import golden, record

SEEDS = (0, 1, 2)
V = 11
Arrays = dict[str, torch.Tensor]
ACCELERATOR = types.SimpleNamespace(
    parallelism_config=None, num_processes=1, gather_for_metrics=lambda x: x, gather=lambda x: x
)


def bare(trainer: type, **attributes: Any) -> Any:
    """A trainer with the attributes that its loss reads, and nothing else."""
    made = trainer.__new__(trainer)
    made.accelerator, made.model = ACCELERATOR, types.SimpleNamespace(training=True)
    made._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    made._total_train_tokens, made._tp_size = 0, 1
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def sft(loss_type: str, arrays: Arrays, seed: int) -> torch.Tensor:
    """With the number of tokens of the global batch given for odd seeds."""
    mask = arrays["mask"]
    args = types.SimpleNamespace(loss_type=loss_type, average_tokens_across_devices=True)
    made = bare(
        SFTTrainer, args=args, aux_loss_enabled=False, compute_loss_func=None, label_smoother=None
    )
    made.get_tp_size = lambda: 1

    def model(**_: Any) -> Any:  # the fused head answers with 0 for tokens without a label
        return types.SimpleNamespace(
            log_probs=arrays["token_logprobs"] * mask,
            label_mask=mask,
            entropy=torch.zeros_like(mask),
            is_top1=torch.zeros_like(mask),
        )

    batch = {"attention_mask": torch.ones_like(mask), "labels": mask}
    return made.compute_loss(model, batch, num_items_in_batch=mask.sum() if seed % 2 else None)


def reward(center_coefficient: float | None, arrays: Arrays) -> torch.Tensor:
    args = types.SimpleNamespace(center_rewards_coefficient=center_coefficient)
    scores = torch.cat([arrays["chosen_scores"], arrays["rejected_scores"]])[:, None]
    batch = {"attention_mask": torch.ones(2, 2)}
    if "margin" in arrays:
        batch["margin"] = arrays["margin"]
    return bare(RewardTrainer, args=args).compute_loss(
        lambda **_: types.SimpleNamespace(logits=scores), batch
    )


def gkd(beta: float, temperature: float, arrays: Arrays, seed: int) -> torch.Tensor:
    """At temperature 1 through the trainer, which leaves the first token without a prediction."""
    labels = torch.where(arrays["mask"] != 0, 1, -100)
    student, teacher = arrays["student_logits"], arrays["teacher_logits"]
    if temperature != 1.0:
        return GKDTrainer.generalized_jsd_loss(
            student, teacher, labels, beta=beta, temperature=temperature
        )

    def told(logits: torch.Tensor) -> Any:
        last = torch.zeros_like(logits[:, :1])
        answer = types.SimpleNamespace(logits=torch.cat([logits, last], dim=1))

        class Told(torch.nn.Module):
            def forward(self, **_: Any) -> Any:
                return answer

        return Told()

    first = torch.full_like(labels[:, :1], -100)
    batch = {
        "input_ids": None,
        "attention_mask": None,
        "labels": torch.cat([first, labels], dim=1),
    }
    made = bare(GKDTrainer, beta=beta, teacher_model=told(teacher))
    count = arrays["mask"].sum() if seed % 2 else None
    return made.compute_loss(told(student), batch, num_items_in_batch=count)


def distillation(beta: float, temperature: float, arrays: Arrays, seed: int) -> torch.Tensor:
    """Logits as hidden states under a head that is the identity."""
    head = torch.eye(V, dtype=arrays["student_logits"].dtype)
    return distillation_trainer._chunked_divergence_loss(
        arrays["student_logits"],
        arrays["teacher_logits"],
        head,
        head,
        arrays["mask"],
        beta,
        num_items_in_batch=arrays["mask"].sum() if seed % 2 else None,
        temperature=temperature,
    )[0]


def draw_tokens(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = record.ragged_mask(rng)
    return {"token_logprobs": record.logprobs(rng, mask), "mask": mask}


def draw_scores(seed: int, margin: bool) -> dict[str, np.ndarray]:
    """The last seed has score differences far beyond where a sigmoid saturates."""
    rng = np.random.default_rng(seed)
    size = 60.0 if seed == SEEDS[-1] else 2.0
    names = ["chosen_scores", "rejected_scores"]
    drawn = {name: (size * rng.normal(size=record.B)).astype(np.float32) for name in names}
    if margin:
        drawn["margin"] = rng.uniform(0, 2, record.B).astype(np.float32)
    return drawn


def draw_logits(seed: int) -> dict[str, np.ndarray]:
    """The last seed has distributions that are nearly sure of one token."""
    rng = np.random.default_rng(seed)
    size = 8.0 if seed == SEEDS[-1] else 1.5
    shape = (record.B, record.T, V)
    return {
        "student_logits": (size * rng.normal(size=shape)).astype(np.float32),
        "teacher_logits": (size * rng.normal(size=shape)).astype(np.float32),
        "mask": record.ragged_mask(rng),
    }


def one(
    method: str,
    seed: int,
    call: Callable[[Arrays], torch.Tensor],
    inputs: dict[str, np.ndarray],
    wrt: tuple[str, ...],
    **options: Any,
) -> golden.Golden:
    case = {"preset": "trl-1.16", "method": method, "options": options, "seed": seed}
    return record.golden(call, inputs, wrt=wrt, **case)


def goldens(seed: int) -> list[golden.Golden]:
    tokens, logits = draw_tokens(seed), draw_logits(seed)
    found = [
        one(method, seed, lambda a, k=kind: sft(k, a, seed), tokens, ("token_logprobs",))
        for method, kind in (("token_nll", "nll"), ("dft", "dft"))
    ]
    found += [
        one(
            "bradley_terry",
            seed,
            lambda a, c=center: reward(c, a),
            draw_scores(seed, margin),
            ("chosen_scores", "rejected_scores"),
            **({} if center is None else {"center_coefficient": center}),
        )
        for margin in (False, True)
        for center in (None, 0.01)
    ]
    found += [
        one(
            method,
            seed,
            lambda a, f=reference, b=beta, t=temperature: f(b, t, a, seed),
            logits,
            ("student_logits",),
            beta=beta,
            temperature=temperature,
        )
        for method, reference in (("generalised_jsd", gkd), ("distillation", distillation))
        for beta in (0.0, 0.3, 0.5, 1.0)
        for temperature in (1.0, 0.7)
    ]
    return found


def main() -> None:
    versions = record.versions(trl="1.16.0")
    found = [g for seed in SEEDS for g in goldens(seed)]
    print(golden.save("trl-1.16-language", found, versions), len(found))


if __name__ == "__main__":
    main()
