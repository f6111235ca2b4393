"""DPO of a 1B model (the shape of Llama 3.2 1B): 32 pairs of 2 x 2,048 tokens a step.

Paper: Rafailov et al. 2023; the shape is that of Grattafiori et al. 2024.
Hardware: a v5e-16, planned and not yet run (docs/tpu.md); `:gpu8` for 8 GPUs, `:tiny` for 2 CPU
    cores.
Command: alignjax train --config=experiments/scale_1b_dpo.py --config.data.path=DATA \
    --config.data.tokenizer=TOKENIZER \
    --config.policy=runs/scale_1b_sft --workdir=runs/scale_1b_dpo
"""

from alignjax.experiment import Experiment
from experiments import common


def get_config(variant: str = "") -> Experiment:
    return common.scale(variant, "dpo", shape="1b", devices=16, rows=32, length=2048)
