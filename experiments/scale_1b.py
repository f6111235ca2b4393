"""Every method at 1B, the shape of Llama 3.2 1B: 64 rows of 2,048 tokens a step.

Paper: Ouyang et al. 2022 (the stages), Rafailov et al. 2023 (DPO); the shape is an open model's.
Hardware: a v5e-16 (`v5e:4x4`) or 8 GPUs, planned and not yet
    run (docs/tpu.md); `:tiny` for 2 CPU cores.
Command: alignjax train --config=experiments/scale_1b.py:sft-v5e16 --config.data.path=DATA \
    --config.data.tokenizer=TOKENIZER --workdir=runs/scale_1b
"""

from alignjax.experiments import common
from alignjax.runs.experiment import Experiment

SLICES = {
    "v5e16": common.Slice(mesh={"data": 16}, rows=64, length=2048),
    "gpu8": common.Slice(mesh={"data": 8}, rows=64, length=2048),
}


def get_config(variant: str = "") -> Experiment:
    return common.scale(variant, "1b", SLICES)
