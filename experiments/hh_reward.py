"""A Bradley-Terry reward model of hh-rlhf.

Paper: Bai et al. 2022, section 3 (preference models); Ouyang et al. 2022, equation 1.
Hardware: a v5e-16 (380M parameters); `:gpu8` for 8 GPUs, `:tiny` for 2 CPU cores.
Command: alignjax train --config=experiments/hh_reward.py --config.data.path=DATA \
    --config.policy=runs/hh_sft --workdir=runs/hh_reward
"""

from alignjax.experiments import common
from alignjax.runs.experiment import Experiment


def get_config(variant: str = "") -> Experiment:
    return common.experiment(variant, "reward")
