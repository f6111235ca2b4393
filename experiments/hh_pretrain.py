"""Next-token pretraining on the transcripts of hh-rlhf.

Reproduces nothing by itself: it is the base that the other stages start from.
Hardware: a v5e-16 (380M parameters); `:gpu8` for 8 GPUs, `:tiny` for 2 CPU cores.
Command: alignjax train --config=experiments/hh_pretrain.py --config.data.path=DATA \
    --workdir=runs/hh_pretrain
"""

from alignjax.experiments import common
from alignjax.runs.experiment import Experiment


def get_config(variant: str = "") -> Experiment:
    return common.experiment(variant, "pretrain")
