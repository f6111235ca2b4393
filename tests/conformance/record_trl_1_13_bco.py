"""Records BCOTrainer of TRL 1.13.0: its own `get_batch_loss_metrics` on a model of two tokens.

In an environment with `pip install torch==2.13.0 trl==1.13.0`, or with the unpacked wheel first on
the path, from the root of the repository: python -m tests.conformance.record_trl_1_13_bco
"""

import types
from typing import Any

import numpy as np
import torch
from trl.experimental.bco import bco_config, bco_trainer

from tests.conformance import golden, record, two_tokens

# How far the policy has moved, in nats per token: a little, and until sigmoids are saturated.
MOVES = (0.1, -0.3, 8.0)
CASES: list[dict[str, Any]] = [
    {"beta": 0.3},
    {"beta": 0.3, "udm": True},
    {"beta": 0.3, "udm": True, "minimum_weight": 0.1, "maximum_weight": 2.0},
]
NO_PROMPT = -1.0  # an embedding that no prompt has


def draw(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = record.ragged_mask(rng)
    logprobs = record.logprobs(rng, mask)
    return {
        "mask": mask,
        "logprobs": logprobs,
        "reference_logprobs": record.near(rng, logprobs - MOVES[seed % len(MOVES)] * mask, mask),
        "desirable": (np.arange(record.B) % 3 > 0).astype(np.int64),
        # Undesirable answers have weights below, within and above the bounds.
        "desirable_probability": np.array([0.04, 0.5, 0.5, 0.7, 0.5, 0.5], np.float32)
        if seed % 2
        else np.array([0.96, 0.5, 0.5, 0.35, 0.5, 0.5], np.float32),
    }


def trainer(options: dict[str, Any]) -> bco_trainer.BCOTrainer:
    """A BCOTrainer with the attributes that its loss reads, and nothing else."""
    made = bco_trainer.BCOTrainer.__new__(bco_trainer.BCOTrainer)
    config = bco_config.BCOConfig(
        output_dir="",
        use_cpu=True,
        bf16=False,
        beta=options["beta"],
        min_density_ratio=options.get("minimum_weight", 0.5),
        max_density_ratio=options.get("maximum_weight", 10.0),
    )
    made.accelerator = two_tokens.accelerator()
    made.running = bco_trainer.RunningMoments(made.accelerator)
    made.args, made.beta = config, config.beta
    made.aux_loss_enabled = made.is_encoder_decoder = False
    # Prompts are embedded as p(desirable | prompt), which the classifier reads off.
    made.embedding_func = object() if options.get("udm") else None
    made.embedding_tokenizer = types.SimpleNamespace(pad_token_id=NO_PROMPT)
    made.clf = types.SimpleNamespace(predict_proba=lambda x: np.stack([1 - x[:, 0], x[:, 0]], 1))
    return made


def run(made: bco_trainer.BCOTrainer, arrays: dict[str, torch.Tensor]) -> torch.Tensor:
    mask = arrays["mask"]
    batch = {
        "completion_input_ids": torch.full_like(mask, two_tokens.TOKEN),
        "completion_attention_mask": torch.ones_like(mask),
        "completion_labels": torch.where(mask == 1, two_tokens.TOKEN, -100),
        "label": [bool(x) for x in arrays["desirable"]],
        "embedding_input_ids": None,
        "embedding_attention_mask": None,
    }
    made._vectorize_prompt = lambda **_: arrays["desirable_probability"][:, None]
    made.ref_model = two_tokens.Model(arrays["reference_logprobs"], mask)
    return made.get_batch_loss_metrics(two_tokens.Model(arrays["logprobs"], mask), batch)[0]


def recorded(options: dict[str, Any], seed: int) -> golden.Golden:
    """The second step of a run; the mean that it uses is told to the recipe as `shift`."""
    made, inputs = trainer(options), draw(seed)
    run(made, {name: torch.tensor(x) for name, x in draw(seed + 101).items()})
    before, count = made.running.mean, made.running.count
    run(made, {name: record.leaf(x, False, True) for name, x in inputs.items()})
    inputs["shift"] = np.float32(made.running.mean)
    inputs["mean_before"], inputs["weight_before"] = np.float32(before), np.float32(count)

    def call(arrays: dict[str, torch.Tensor]) -> torch.Tensor:
        made = trainer(options)
        made.running.mean, made.running.count = before, count
        return run(made, arrays)

    return record.golden(
        call,
        inputs,
        wrt=("logprobs",),
        preset="trl-1.13",
        method="bco",
        options=options,
        seed=seed,
    )


def main() -> None:
    versions = record.versions(trl="1.13.0")
    found = [recorded(options, seed) for options in CASES for seed in range(len(MOVES))]
    print(golden.save("trl-1.13-bco", found, versions), len(found))


if __name__ == "__main__":
    main()
