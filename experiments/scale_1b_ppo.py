"""PPO of a 1B model (the shape of Llama 3.2 1B): 64 prompts of 512 tokens, 512 new ones each.

Paper: Ouyang et al. 2022; the shape is that of Grattafiori et al. 2024.
Hardware: a v5e-16, planned and not yet run (docs/tpu.md); `:gpu8` for 8 GPUs, `:tiny` for 2 CPU
    cores.
Command: alignjax train --config=experiments/scale_1b_ppo.py --config.data.path=DATA \
    --config.data.tokenizer=TOKENIZER --config.policy=runs/scale_1b_sft \
    --config.reward=runs/scale_1b_reward --workdir=runs/scale_1b_ppo
"""

from alignjax.experiment import Experiment
from experiments import common


def get_config(variant: str = "") -> Experiment:
    config = common.scale(variant, "ppo", shape="1b", devices=16, rows=64, length=1024)
    if variant not in ("tiny", "micro"):
        config.algorithm.sampling.max_new_tokens = 512
        config.loop.micro_batches = 1
    return config
