"""Supervised fine-tuning on the chosen answers of hh-rlhf.

Paper: Ouyang et al. 2022, section 3.1; Rafailov et al. 2023, section 6 (Preferred-FT).
Hardware: a v5e-16 (380M parameters); `:gpu8` for 8 GPUs, `:tiny` for 2 CPU cores.
Command: alignjax train --config=experiments/hh_sft.py --config.data.path=DATA \
    --config.policy=runs/hh_pretrain --workdir=runs/hh_sft
"""

from alignjax.experiments import common
from alignjax.runs.experiment import Experiment


def get_config(variant: str = "") -> Experiment:
    return common.experiment(variant, "sft")
