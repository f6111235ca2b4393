"""Every method at 8B, the shape of Llama 3.1 8B, on three kinds of slice.

Paper: Ouyang et al. 2022 (the stages), Rafailov et al. 2023 (DPO); the shape is an open model's.
Hardware: 64 v5p chips (`v5p:4x4x4`), 256 v5e or v6e chips (`16x16`), or 8 GPUs, planned and not yet
    run (docs/tpu.md); `:tiny` for 2 CPU cores.
Command: alignjax train --config=experiments/scale_8b.py:sft-v5p64 --config.data.path=DATA \
    --config.data.tokenizer=TOKENIZER --workdir=runs/scale_8b
"""

from alignjax.experiments import common
from alignjax.runs.experiment import Experiment

SLICES = {
    "v5p64": common.Slice(mesh={"data": 64}, rows=128, length=4096, remat="dots"),
    "v5e256": common.Slice(mesh={"data": 256}, rows=512, length=4096),
    "v6e256": common.Slice(
        mesh={"data": 256}, rows=1024, length=4096, remat="heads", micro={"ppo": 2}
    ),
    "gpu8": common.Slice(mesh={"data": 8}, rows=16, length=4096),
}


def get_config(variant: str = "") -> Experiment:
    return common.scale(variant, "8b", SLICES)
