"""A student of a third of the width learns from an aligned teacher on ReviewWorld.

Compares: who should answer (Agarwal et al. 2024, figures 2 and 4; Gu et al. 2024). Here, where the
student can nearly match its teacher, fresh samples of the teacher teach more than its own.
Four students start from one small model and see as many tokens of answers: forward KL on the data's
demonstrations, forward KL on the teacher's samples, an even mix of both at beta 1/2, and reverse KL
on their own samples alone. What is measured is KL(student || teacher) of whole completions, in
nats, exact over the vocabulary at prefixes that the student samples.
Variants: micro (for tests).
Hardware: 2 CPU cores. A 103k-parameter teacher, a 19k-parameter student.
Command: alignjax run --config=experiments/distill_review.py --workdir=runs/distill_review
Another seed: --config.data.world.seed=1 --config.seed=1
"""

from alignjax.algorithms.distill import DistillConfig
from alignjax.algorithms.grpo import GrpoConfig
from alignjax.algorithms.pretrain import PretrainConfig
from alignjax.algorithms.sft import SftConfig
from alignjax.experiments.common.students import StudentsLifecycle
from alignjax.lifecycles.lifecycle import Stage
from alignjax.models.config import TransformerConfig
from alignjax.runs.experiment import Training
from alignjax.sampling.transforms import SamplingConfig
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig
from alignjax.worlds.corpus import ReviewConfig

# KL to the teacher, nats a completion, seeds 0 and 1 on CPU, 200 steps (bench/results).
EXPECTED = {"supervised": (0.0148, 0.0069), "on_policy": (0.0239, 0.0098)}  # mean, deviation
# (share of rows that the student answers, who answers the others, beta)
STUDENTS = {
    "data": (0.0, "data", 0.0),
    "supervised": (0.0, "teacher", 0.0),
    "mixed": (0.5, "data", 0.5),
    "on_policy": (1.0, "data", 1.0),
}
SMALL = TransformerConfig(width=24, heads=3, kv_heads=1, head_dim=8, ff=48, unroll=2)


def student(share: float, others: str, beta: float) -> Training:
    return Training(
        algorithm=DistillConfig(
            on_policy=share, others=others, beta=beta, sampling=SamplingConfig(max_new_tokens=18)
        ),
        optim=OptimConfig(learning_rate=3e-3, schedule="linear", warmup_steps=0),
        loop=LoopConfig(steps=200, batch_size=64),
    )


def train(algorithm: object, rate: float, steps: int, batch: int) -> Training:
    return Training(
        algorithm=algorithm,
        optim=OptimConfig(learning_rate=rate),
        loop=LoopConfig(steps=steps, batch_size=batch),
    )


def get_config(variant: str = "") -> StudentsLifecycle:
    if variant not in ("", "micro"):
        raise ValueError(f"the variants are '' and micro; got {variant!r}.")
    aligned = GrpoConfig(
        method="dr_grpo",
        group=8,
        reward="gold",
        kl_in_reward=2.0,
        sampling=SamplingConfig(max_new_tokens=18),
    )
    config = StudentsLifecycle(
        title="ReviewWorld: students of an aligned teacher",
        model=TransformerConfig(unroll=2),
        data=ReviewConfig(documents=51200, demonstrations=12800, prompts=12800),
        stages=(
            Stage("pretrain", train(PretrainConfig(), 3e-3, 400, 128)),
            Stage("sft", train(SftConfig(), 1e-3, 100, 128), policy="pretrain"),
            Stage("teacher", train(aligned, 1e-3, 60, 32), policy="sft"),
            Stage("small", train(PretrainConfig(), 3e-3, 400, 128), model=SMALL),
            *(
                Stage(name, student(*how), policy="small", teacher="teacher", model=SMALL)
                for name, how in STUDENTS.items()
            ),
        ),
        closer="on_policy",
        than="supervised",
        eval_batch=2048,
    )
    if variant == "micro":
        micro(config)
    return config


def micro(config: StudentsLifecycle) -> None:
    """The same stages in seconds: too short to learn."""
    config.model = TransformerConfig(width=16, heads=2, kv_heads=1, head_dim=8, ff=32, unroll=2)
    config.data = ReviewConfig(documents=64, demonstrations=64, prompts=64, eval_rows=32)
    config.eval_batch = 32
    for stage in config.stages:
        loop = stage.training.loop
        loop.steps, loop.batch_size, loop.checkpoint_every = 3, 8, 2
