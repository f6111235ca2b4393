"""SFT of a 1B model (the shape of Llama 3.2 1B): 64 rows of 2,048 tokens a step.

Paper: Ouyang et al. 2022, section 3.1; the shape is that of Grattafiori et al. 2024.
Hardware: a v5e-16, planned and not yet run (docs/tpu.md); `:gpu8` for 8 GPUs, `:tiny` for 2 CPU
    cores.
Command: alignjax train --config=experiments/scale_1b_sft.py --config.data.path=DATA \
    --config.data.tokenizer=TOKENIZER --workdir=runs/scale_1b_sft
"""

from alignjax.experiment import Experiment
from experiments import common


def get_config(variant: str = "") -> Experiment:
    return common.scale(variant, "sft", shape="1b", devices=16, rows=64, length=2048)
