"""Critic-free reinforcement learning on ChainWorld, whose verifier is exact.

Shows: GRPO and its kin lift a base model that solves a fifth of chains of up to 4 steps to nearly
all of them, at equal samples (Shao et al. 2024; Ahmadian et al. 2024; Liu et al. 2025). The base
knows the arithmetic, and has then read worked chains in which a step is wrong with probability .45:
it solves S steps with probability .55^S, in its own samples.
Variants: grpo (the same as none) or another of ARMS alone; estimators, all of them from one base;
micro (for tests).
Hardware: 2 CPU cores. A 236k-parameter model.
Command: alignjax run --config=experiments/grpo_chain.py --workdir=runs/grpo_chain
Another seed: --config.seed=1
"""

from alignjax.algorithms.policy_gradient import PolicyGradientConfig
from alignjax.algorithms.pretrain import PretrainConfig
from alignjax.algorithms.sft import SftConfig
from alignjax.experiments.common.arms import ArmsLifecycle
from alignjax.experiments.common.estimators import estimators
from alignjax.lifecycles.lifecycle import Stage
from alignjax.models.config import TransformerConfig
from alignjax.runs.experiment import Training
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig
from alignjax.worlds.chain import ChainConfig

LONGEST = 4


def arms() -> dict[str, PolicyGradientConfig]:
    """Every arm: 16 prompts of 8 samples a step."""
    return estimators(LONGEST)


ARMS = tuple(arms())


def get_config(variant: str = "") -> ArmsLifecycle:
    known = ("", *ARMS, "estimators", "micro")
    if variant not in known:
        raise ValueError(f"the variants are {', '.join(map(repr, known))}; got {variant!r}.")
    chosen = ARMS if variant == "estimators" else (variant if variant in ARMS else "grpo",)
    config = lifecycle({name: arms()[name] for name in chosen})
    if variant == "micro":
        micro(config)
    return config


def lifecycle(chosen: dict[str, PolicyGradientConfig]) -> ArmsLifecycle:
    """The base, then the arms."""
    taught = Training(
        algorithm=SftConfig(),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=50),
        loop=LoopConfig(steps=900, batch_size=128),
    )
    base = Training(
        algorithm=PretrainConfig(),
        optim=OptimConfig(learning_rate=1e-3),
        loop=LoopConfig(steps=100, batch_size=128),
    )
    stages = [Stage("taught", taught), Stage("base", base, policy="taught")]
    for name, method in chosen.items():
        training = Training(
            algorithm=method,
            optim=OptimConfig(learning_rate=3e-4, schedule="constant"),
            loop=LoopConfig(steps=200, batch_size=16, evaluate_every=50, evaluate_rows=256),
        )
        stages.append(Stage(name, training, policy="base"))
    return ArmsLifecycle(
        title="ChainWorld: critic-free reinforcement learning",
        model=TransformerConfig(
            width=96, heads=4, kv_heads=4, head_dim=32, ff=256, rope_theta=30.0, tied=False,
            unroll=2,
        ),
        data=ChainConfig(
            modulus=7, shortest=1, longest=LONGEST, documents=20000, demonstrations=64000,
            document_error=0.45,
        ),
        stages=tuple(stages),
        arms=tuple(chosen),
        target=0.95,
        eval_batch=256,
    )  # fmt: skip


def micro(config: ArmsLifecycle) -> None:
    """The same stages in seconds: too short to learn."""
    config.model = TransformerConfig(width=16, heads=2, kv_heads=1, head_dim=8, ff=32, unroll=2)
    config.data.documents = config.data.demonstrations = config.data.prompts = 64
    config.data.eval_rows, config.eval_batch, config.target = 16, 16, 0.0
    for stage in config.stages:
        loop = stage.training.loop
        loop.steps, loop.batch_size, loop.checkpoint_every = 3, 4, 2
        loop.evaluate_every, loop.evaluate_rows = min(loop.evaluate_every, 2), 16
