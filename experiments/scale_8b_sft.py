"""SFT of an 8B model (the shape of Llama 3.1 8B): 128 rows of 4,096 tokens a step.

Paper: Ouyang et al. 2022, section 3.1; the shape is that of Grattafiori et al. 2024.
Hardware: 64 v5p chips (v5p:4x4x4), planned and not yet run (docs/tpu.md); `:gpu8` for 8 GPUs,
    `:tiny` for 2 CPU cores.
Command: alignjax train --config=experiments/scale_8b_sft.py --config.data.path=DATA \
    --config.data.tokenizer=TOKENIZER --workdir=runs/scale_8b_sft
"""

from alignjax.experiment import Experiment
from experiments import common


def get_config(variant: str = "") -> Experiment:
    return common.scale(variant, "sft", shape="8b", devices=64, rows=128, length=4096)
