"""KTO on the answers of hh-rlhf taken one by one: chosen ones desirable, rejected ones not.

Paper: Ethayarajh et al. 2024, section 4; `--config.algorithm.method=bco` is Jung et al. 2024.
Hardware: a v5e-16 (380M parameters); `:gpu8` for 8 GPUs, `:tiny` for 2 CPU cores.
Command: alignjax train --config=experiments/hh_unpaired.py --config.data.path=DATA \
    --config.policy=runs/hh_sft --workdir=runs/hh_unpaired
"""

import dataclasses

from alignjax.algorithms.unpaired import UnpairedConfig
from alignjax.experiments import common
from alignjax.runs.experiment import Experiment


def get_config(variant: str = "") -> Experiment:
    config = common.experiment(variant, "dpo")
    # A pair is two answers: as many tokens a step.
    loop = dataclasses.replace(config.loop, batch_size=2 * config.loop.batch_size)
    return dataclasses.replace(config, algorithm=UnpairedConfig(beta=0.1), loop=loop)
