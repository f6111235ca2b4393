"""Every method at the shape of Qwen3 30B-A3B, a mixture of 128 experts.

Paper: Ouyang et al. 2022 (the stages), Rafailov et al. 2023 (DPO); the shape is an open model's.
Hardware: 8 v5p chips (`v5p:2x2x2`), 16 (`v5p:2x2x4`) for PPO, planned and not yet
    run (docs/tpu.md); `:tiny` for 2 CPU cores.
Command: alignjax train --config=experiments/scale_30b_a3b.py:sft-v5p8 --config.data.path=DATA \
    --config.data.tokenizer=TOKENIZER --workdir=runs/scale_30b_a3b
"""

from alignjax.experiments import common
from alignjax.runs.experiment import Experiment

SLICES = {
    "v5p8": common.Slice(
        mesh={"data": 8}, rows=32, length=4096, remat="full", methods=common.OFFLINE
    ),
    "v5p16": common.Slice(
        mesh={"data": 16}, rows=64, length=4096, remat="full", sampling=4, methods=("ppo",)
    ),
}


def get_config(variant: str = "") -> Experiment:
    return common.scale(variant, "30b_a3b", SLICES)
