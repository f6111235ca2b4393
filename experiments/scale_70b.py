"""Every method at 70B, the shape of Llama 3.1 70B: 512 rows of 8,192 tokens a step.

Paper: Ouyang et al. 2022 (the stages), Rafailov et al. 2023 (DPO); the shape is an open model's.
Hardware: 512 v5p chips (`v5p:8x8x8`), planned and not yet
    run (docs/tpu.md); `:tiny` for 2 CPU cores.
Command: alignjax train --config=experiments/scale_70b.py:sft-v5p512 --config.data.path=DATA \
    --config.data.tokenizer=TOKENIZER --workdir=runs/scale_70b
"""

from alignjax.experiments import common
from alignjax.runs.experiment import Experiment

SLICES = {
    "v5p512": common.Slice(mesh={"data": 512}, rows=512, length=8192, remat="heads"),
}


def get_config(variant: str = "") -> Experiment:
    return common.scale(variant, "70b", SLICES)
