"""Iterative DPO, SPIN, SPPO and RSO: rounds of preferences on ReviewWorld, beside offline DPO.

Shows: labels of the policy's own answers teach more than as many labels of the first policy's
(Xu et al. 2023; Guo et al. 2024): offline and iterative DPO share round 1, and part from round 2.
SPIN (Chen et al. 2024) has no labels and can only come to the demonstrations; SPPO (Wu et al. 2024)
plays against itself; RSO (Liu et al. 2023) draws from SFT and keeps by a reward model.
Measured: docs/online_preference.md.
Variants: all (every arm; "" has offline and dpo alone); micro (for tests).
Hardware: 2 CPU cores. A 103k-parameter model.
Command: alignjax run --config=experiments/iterative_dpo.py:all --workdir=runs/iterative_dpo
Another world: --config.data.world.seed=1 --config.seed=1
"""

from alignjax.algorithms.dpo import DpoConfig
from alignjax.algorithms.online_dpo import OnlineDpoConfig
from alignjax.algorithms.pretrain import PretrainConfig
from alignjax.algorithms.reward import RewardConfig
from alignjax.algorithms.sft import SftConfig
from alignjax.experiments.common.rounds import ARMS, RoundsLifecycle
from alignjax.models.config import TransformerConfig
from alignjax.runs.experiment import Training
from alignjax.sampling.transforms import SamplingConfig
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig
from alignjax.worlds.corpus import ReviewConfig

BETA = 0.3
ROUNDS, PROMPTS, BATCH = 4, 1000, 16


def get_config(variant: str = "") -> RoundsLifecycle:
    if variant not in ("", "all", "micro"):
        raise ValueError(f"the variants are '', 'all' and 'micro'; got {variant!r}.")
    config = RoundsLifecycle(
        model=TransformerConfig(unroll=2),
        data=ReviewConfig(documents=115200, demonstrations=16384),
        pretrain=Training(
            algorithm=PretrainConfig(),
            optim=OptimConfig(learning_rate=3e-3),
            loop=LoopConfig(steps=900, batch_size=128),
        ),
        sft=Training(
            algorithm=SftConfig(),
            optim=OptimConfig(learning_rate=1e-3),
            loop=LoopConfig(steps=256, batch_size=128),
        ),
        reward=Training(
            algorithm=RewardConfig(),
            optim=OptimConfig(learning_rate=2e-3),
            loop=LoopConfig(steps=120, batch_size=BATCH),
        ),
        policy=Training(
            algorithm=DpoConfig(beta=BETA),
            optim=OptimConfig(learning_rate=1e-3),
            loop=LoopConfig(steps=2 * PROMPTS // BATCH, batch_size=BATCH),
        ),
        online=Training(
            algorithm=OnlineDpoConfig(
                beta=BETA,
                group=4,
                pairs="all",
                reward="gold",
                sampling=SamplingConfig(max_new_tokens=18),
            ),
            optim=OptimConfig(learning_rate=1e-3, schedule="linear", warmup_steps=0),
            loop=LoopConfig(steps=ROUNDS * PROMPTS // BATCH, batch_size=BATCH),
        ),
        rounds=ROUNDS,
        prompts=PROMPTS,
        ratio=1.4,
    )
    if variant == "all":
        config.arms = ARMS
    return micro(config) if variant == "micro" else config


def micro(config: RoundsLifecycle) -> RoundsLifecycle:
    """The same stages in a minute: too short for the gate."""
    config.model = TransformerConfig(width=16, heads=2, kv_heads=1, head_dim=8, ff=32, unroll=2)
    config.data = ReviewConfig(documents=256, demonstrations=128, prompts=128, eval_rows=64)
    for stage in ("pretrain", "sft", "reward", "policy", "online"):
        loop = getattr(config, stage).loop
        loop.steps, loop.batch_size, loop.checkpoint_every = 3, 16, 2
    config.arms, config.rounds, config.prompts = ARMS, 1, 40
    config.draws, config.eval_batch, config.ratio = 8, 64, 0.0
    return config
