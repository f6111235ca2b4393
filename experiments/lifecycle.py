"""ReviewWorld from pretraining to alignment, against the exact optimum."""

from alignjax.algorithms import dpo, ppo, pretrain, reward, sft
from alignjax.experiment import Training
from alignjax.lifecycles.review import ReviewLifecycle
from alignjax.sampling.transforms import SamplingConfig
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig


def get_config(variant: str = "") -> ReviewLifecycle:
    config = ReviewLifecycle(
        pretrain=Training(
            algorithm=pretrain.PretrainConfig(),
            optim=OptimConfig(learning_rate=3e-3),
            loop=LoopConfig(steps=600, batch_size=128),
        ),
        sft=Training(
            algorithm=sft.SftConfig(),
            optim=OptimConfig(learning_rate=1e-3),
            loop=LoopConfig(steps=64, batch_size=128),
        ),
        reward=Training(
            algorithm=reward.RewardConfig(),
            optim=OptimConfig(learning_rate=1e-3),
            loop=LoopConfig(steps=1080, batch_size=64),
        ),
        dpo=Training(
            algorithm=dpo.DpoConfig(beta=1.0),
            optim=OptimConfig(learning_rate=1e-3),
            loop=LoopConfig(steps=361, batch_size=64),
        ),
        ppo=Training(
            algorithm=ppo.PpoConfig(sampling=SamplingConfig(max_new_tokens=18)),
            optim=OptimConfig(learning_rate=1e-3, schedule="linear", warmup_steps=0),
            loop=LoopConfig(steps=40, batch_size=256),
        ),
    )
    return config
