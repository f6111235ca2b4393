"""hh-rlhf from pretraining to alignment: pretrain, SFT, reward model, DPO, PPO, report.

Paper: Bai et al. 2022 (the data, reward models, PPO); Rafailov et al. 2023 (DPO).
Hardware: a v5e-16 (380M parameters); `:gpu8` for 8 GPUs; `:tiny`, 1.1M parameters trained from
scratch on a few thousand transcripts, for 2 CPU cores and at most 20 minutes.
Command: alignjax run --config=experiments/hh_lifecycle.py:tiny --config.data.path=DATA \
    --workdir=runs/hh
DATA is any folder of {"chosen", "rejected"} jsonl, jsonl.gz or array_record files.
"""

from alignjax.experiments import common
from alignjax.experiments.common.human import HumanLifecycle

# Measured with jax 0.10.2 on 2 CPU cores in 12 minutes, on 5962 training and 779 eval pairs cut
# from hh-rlhf's test files. A model this small barely beats a coin, and neither baseline does more.
EXPECTED = {
    "tiny": {
        "pretrained": {"nll": 4.684},
        "SFT": {"nll": 4.629},
        "reward model": {"accuracy": 0.531},
        "baseline: longer answer wins": {"accuracy": 0.524},
        "baseline: bag of words, logistic": {"accuracy": 0.543},
        "DPO": {"accuracy": 0.512},
    }
}


def get_config(variant: str = "") -> HumanLifecycle:
    return common.human(variant)
