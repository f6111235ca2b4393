"""Records PRMTrainer of TRL 1.13.0: its labels, and the loss of transformers' token classifier.

In an environment with `pip install torch==2.13.0 trl==1.13.0 transformers==5.23.0`, from the root
of the repository: python -m tests.conformance.record_trl_1_13_prm
"""

import types
from typing import Any

import numpy as np
import torch
import transformers
from trl.experimental.prm import PRMTrainer

from tests.conformance import golden, record

SEEDS = (0, 1, 2)
SEPARATOR = 3


class Characters:
    """A tokenizer of digits: "5" is token 5, and there is one token to begin with."""

    bos_token_id = 1

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [int(c) for c in text]}

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return self(text, add_special_tokens)["input_ids"]


def row(rng: np.random.Generator) -> dict[str, list[int]]:
    """A tokenized example of one to three steps."""

    def text(longest: int) -> str:
        return "".join(str(c) for c in rng.integers(4, 10, rng.integers(1, longest + 1)))

    steps = int(rng.integers(1, 4))
    features = {
        "prompt": text(4),
        "completions": [text(4) for _ in range(steps)],
        "labels": [bool(x) for x in rng.integers(0, 2, steps)],
    }
    made = PRMTrainer.tokenize_row(
        features,
        Characters(),
        step_separator=str(SEPARATOR),
        max_length=None,
        max_completion_length=None,
        train_on_last_step_only=False,
        is_eval=False,
    )
    ends = [i for i, token in enumerate(made["input_ids"]) if token == SEPARATOR]
    assert [i for i, label in enumerate(made["labels"]) if label != -100] == ends
    return made


def draw(seed: int) -> dict[str, np.ndarray]:
    """Labels padded to one length; in the last seed logits far beyond where a softmax saturates."""
    rng = np.random.default_rng(seed)
    rows = [row(rng)["labels"] for _ in range(record.B)]
    length = max(map(len, rows))
    labels = np.array([r + [-100] * (length - len(r)) for r in rows])
    size = 30.0 if seed == SEEDS[-1] else 2.0
    return {
        "logits": (size * rng.normal(size=(*labels.shape, 2))).astype(np.float32),
        "labels": np.where(labels == -100, 0, labels).astype(np.float32),
        "mask": (labels != -100).astype(np.int64),
    }


class Told(torch.nn.Module):
    """A transformer whose states are given."""

    def __init__(self, states: torch.Tensor) -> None:
        super().__init__()
        self.states = states

    def forward(self, *_: Any, **__: Any) -> Any:
        return transformers.modeling_outputs.BaseModelOutputWithPast(last_hidden_state=self.states)


def run(arrays: dict[str, torch.Tensor], seed: int) -> torch.Tensor:
    """With the number of labels of the global batch given for odd seeds."""
    config = transformers.Qwen2Config(
        vocab_size=12, hidden_size=4, intermediate_size=4, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, num_labels=2,
    )  # fmt: skip
    model = transformers.Qwen2ForTokenClassification(config).eval()
    model.model, model.score = Told(arrays["logits"]), torch.nn.Identity()
    made = PRMTrainer.__new__(PRMTrainer)
    made.accelerator = types.SimpleNamespace(parallelism_config=None, num_processes=1)
    made.label_smoother = made.compute_loss_func = None
    made.model_accepts_loss_kwargs = True
    made.args = types.SimpleNamespace(average_tokens_across_devices=False, n_gpu=1)
    labels = torch.where(arrays["mask"] != 0, arrays["labels"].long(), -100)
    batch = {"input_ids": torch.zeros_like(labels), "labels": labels}
    count = arrays["mask"].sum() if seed % 2 else None
    return made.compute_loss(model, batch, num_items_in_batch=count)


def main() -> None:
    versions = record.versions(trl="1.13.0", transformers="5.23.0")
    found = [
        record.golden(
            lambda arrays, s=seed: run(arrays, s),
            draw(seed),
            wrt=("logits",),
            preset="trl-1.13",
            method="process_reward",
            options={},
            seed=seed,
        )
        for seed in SEEDS
    ]
    print(golden.save("trl-1.13-prm", found, versions), len(found))


if __name__ == "__main__":
    main()
