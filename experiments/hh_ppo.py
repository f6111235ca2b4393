"""PPO against a reward model of hh-rlhf.

Paper: Bai et al. 2022, section 4; Huang et al. 2024.
Hardware: a v5e-16 (380M parameters); `:gpu8` for 8 GPUs, `:tiny` for 2 CPU cores.
Command: alignjax train --config=experiments/hh_ppo.py --config.data.path=DATA \
    --config.policy=runs/hh_sft --config.reward=runs/hh_reward --workdir=runs/hh_ppo
"""

from alignjax.experiments import common
from alignjax.runs.experiment import Experiment


def get_config(variant: str = "") -> Experiment:
    return common.experiment(variant, "ppo")
