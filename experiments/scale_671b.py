"""Every method at the shape of DeepSeek V3: latent attention, 256 experts, 671B.

Paper: Ouyang et al. 2022 (the stages), Rafailov et al. 2023 (DPO); the shape is an open model's.
Hardware: 256 v5p chips (`v5p:4x8x8`), 512 (`v5p:8x8x8`) for PPO, planned and not yet
    run (docs/tpu.md); `:tiny` for 2 CPU cores.
Command: alignjax train --config=experiments/scale_671b.py:sft-v5p256 --config.data.path=DATA \
    --config.data.tokenizer=TOKENIZER --workdir=runs/scale_671b
"""

from alignjax.experiments import common
from alignjax.runs.experiment import Experiment

SLICES = {
    "v5p256": common.Slice(
        mesh={"data": 32, "expert": 8}, rows=256, length=4096, remat="full",
        methods=common.OFFLINE,
    ),
    "v5p512": common.Slice(
        mesh={"data": 64, "expert": 8}, rows=512, length=4096, remat="full", methods=("ppo",),
    ),
}  # fmt: skip


def get_config(variant: str = "") -> Experiment:
    return common.scale(variant, "671b", SLICES)
