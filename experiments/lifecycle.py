"""ReviewWorld from pretraining to alignment, scored against the exact optimum.

Shows: the reward-KL frontier of DPO, PPO and best-of-n (Rafailov et al. 2023, figure 2 left; Gao
et al. 2023, section 3) in a world whose KL-regularised optimum is known exactly.
Hardware: 2 CPU cores, 4 minutes. A 103k-parameter model.
Command: alignjax run --config=experiments/lifecycle.py --workdir=runs/lifecycle
Another world: --config.data.world.seed=1 --config.seed=1
Variants: micro (a minute, no gates, for tests).
"""

from alignjax.algorithms import dpo, ppo, pretrain, reward, sft
from alignjax.experiments.common.review import ReviewLifecycle
from alignjax.models.config import TransformerConfig
from alignjax.runs.experiment import Training
from alignjax.sampling.transforms import SamplingConfig
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig
from alignjax.worlds.corpus import ReviewConfig

# Measured with jax 0.10.2 on CPU, seed 0. Another machine rounds differently, and training
# amplifies that: runs differ by about 0.4 in gold reward.
EXPECTED = {
    "": {
        "SFT": {"gold": -0.07},
        "DPO β=1": {"gold": 2.48, "kl": 1.32, "efficiency": 0.74},
        "DPO β=0.3": {"gold": 4.76, "kl": 7.85, "efficiency": 0.56},
        "PPO on RM β=0.3": {"gold": 5.60, "kl": 5.45, "efficiency": 0.78},
        "PPO on RM β=0.1": {"gold": 7.50, "kl": 10.31, "efficiency": 0.77},
        "PPO on gold β=1": {"gold": 3.38, "kl": 1.77, "efficiency": 0.86},
        "PPO on gold β=0.5": {"gold": 7.94, "kl": 8.04, "efficiency": 0.91},
    }
}


def get_config(variant: str = "") -> ReviewLifecycle:
    config = ReviewLifecycle(
        model=TransformerConfig(unroll=2),
        data=ReviewConfig(documents=115200, demonstrations=16384),
        pretrain=Training(
            algorithm=pretrain.PretrainConfig(),
            optim=OptimConfig(learning_rate=3e-3),
            loop=LoopConfig(steps=900, batch_size=128),
        ),
        sft=Training(
            algorithm=sft.SftConfig(),
            optim=OptimConfig(learning_rate=1e-3),
            loop=LoopConfig(steps=256, batch_size=128),
        ),
        reward=Training(
            algorithm=reward.RewardConfig(),
            optim=OptimConfig(learning_rate=2e-3),
            loop=LoopConfig(steps=2560, batch_size=16),  # prompts, of 6 comparisons each
        ),
        dpo=Training(
            algorithm=dpo.DpoConfig(beta=1.0),
            optim=OptimConfig(learning_rate=1e-3),
            loop=LoopConfig(steps=1024, batch_size=16),
        ),
        ppo=Training(
            algorithm=ppo.PpoConfig(epochs=4, sampling=SamplingConfig(max_new_tokens=18)),
            optim=OptimConfig(learning_rate=1e-3, schedule="linear", warmup_steps=0),
            loop=LoopConfig(steps=40, batch_size=256),
        ),
        pair_prompts=12288,
    )
    if variant == "micro":
        return micro(config)
    if variant:
        raise ValueError(f"the variants are '' and 'micro'; got {variant!r}.")
    return config


def micro(config: ReviewLifecycle) -> ReviewLifecycle:
    """The same stages in a minute: too short for the gates."""
    config.model = TransformerConfig(width=32, heads=2, kv_heads=1, head_dim=16, ff=64, unroll=2)
    config.data = ReviewConfig(documents=2048, demonstrations=512, prompts=1024, eval_rows=128)
    for stage, steps in (("pretrain", 30), ("sft", 10), ("reward", 20), ("dpo", 10), ("ppo", 4)):
        loop = getattr(config, stage).loop
        loop.steps, loop.batch_size, loop.checkpoint_every = steps, 32, 4
    config.ppo.algorithm.epochs = 2
    config.pair_prompts, config.best_of, config.best_of_prompts = 256, 64, 32
    config.dpo_betas, config.ppo_betas, config.gold_betas = (1.0, 0.1), (0.3,), (1.0,)
    config.eval_batch, config.gates = 128, False
    return config
