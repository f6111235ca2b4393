"""DPO on hh-rlhf.

Paper: Rafailov et al. 2023, section 6.2 (Anthropic HH, beta 0.1).
Hardware: a v5e-16 (380M parameters); `:gpu8` for 8 GPUs, `:tiny` for 2 CPU cores.
Command: alignjax train --config=experiments/hh_dpo.py --config.data.path=DATA \
    --config.policy=runs/hh_sft --workdir=runs/hh_dpo
"""

from alignjax.experiments import common
from alignjax.runs.experiment import Experiment


def get_config(variant: str = "") -> Experiment:
    return common.experiment(variant, "dpo")
