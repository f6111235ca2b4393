"""hh-rlhf from pretraining to alignment: pretrain, SFT, reward model, DPO, PPO, report.

Paper: Bai et al. 2022 (the data, reward models, PPO); Rafailov et al. 2023 (DPO).
Hardware: a v5e-16 (380M parameters); `:gpu8` for 8 GPUs; `:tiny`, 1.1M parameters trained from
scratch on a few thousand transcripts, for 2 CPU cores and at most 20 minutes.
Command: alignjax run --config=experiments/hh_lifecycle.py:tiny --config.data.path=DATA \
    --workdir=runs/hh
DATA is any folder of {"chosen", "rejected"} jsonl, jsonl.gz or array_record files.
"""

from alignjax.lifecycles.human import HumanLifecycle
from experiments import common


def get_config(variant: str = "") -> HumanLifecycle:
    return common.human(variant)
