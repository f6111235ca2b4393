"""The experiments of the golden run folders beside this file: seconds on one CPU core.

`tests/runs/record_golden.py` trains them; `tests/runs/test_golden.py` reads them and goes on.
"""

from alignjax.algorithms import ppo, pretrain, reward, sft
from alignjax.models.adapters.lora import LoraConfig
from alignjax.models.config import TransformerConfig
from alignjax.runs.experiment import Experiment
from alignjax.sampling.transforms import SamplingConfig
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig
from alignjax.worlds.corpus import ReviewConfig


def get_config(variant: str = "") -> Experiment:
    """base, sft and ppo (LoRA over base), reward (whole), sft-1 (whole; of format 1)."""
    config = Experiment(
        optim=OptimConfig(learning_rate=3e-3, schedule="constant", warmup_steps=0),
        loop=LoopConfig(steps=4, batch_size=8, checkpoint_every=4, keep_checkpoints=1),
        model=TransformerConfig(layers=1, width=8, heads=1, kv_heads=1, head_dim=8, ff=8),
        data=ReviewConfig(documents=64, demonstrations=64, prompts=64, eval_rows=16),
    )
    if variant == "base":
        config.algorithm = pretrain.PretrainConfig(z_loss=1e-4)
    elif variant == "sft-1":
        config.algorithm = sft.SftConfig(label_smoothing=0.1)
    elif variant == "reward":
        config.algorithm, config.policy = reward.RewardConfig(centering=0.01), "base"
        config.data.pairs = "pairs.npz"
    else:
        config.adapter = LoraConfig(rank=2, alpha=4.0, targets=("query", "value", "up"))
        config.algorithm, config.policy = sft.SftConfig(), "base"
    if variant == "ppo":
        sampling = SamplingConfig(max_new_tokens=6)
        config.algorithm = ppo.PpoConfig(kl_coefficient=0.1, minibatches=1, sampling=sampling)
        config.policy, config.reward, config.critic = "sft", "reward", "reward"
    return config
