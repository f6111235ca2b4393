"""A method on data of your own: any layout (docs/data.md) in any container, LoRA on open weights.

Variants: pretrain, sft (the default), reward, dpo, kto, group (DPO robust over the groups that
--config.data.groups names, as many as --config.algorithm.groups), each also as METHOD-tiny (1.1M
parameters, a tokenizer trained on the data) and METHOD-micro (for tests).
Hardware: one accelerator for 1B parameters; `:dpo-tiny` and the like for 2 CPU cores.
Command: alignjax train --config=experiments/own_data.py:dpo --config.data.path=ROWS.jsonl \
    --config.weights=MODEL --config.data.tokenizer=MODEL --workdir=runs/own
"""

import dataclasses

from alignjax.algorithms.group_dpo import GroupDpoConfig
from alignjax.algorithms.unpaired import UnpairedConfig
from alignjax.data.files import FilesConfig
from alignjax.experiments import common
from alignjax.models.adapters.lora import LoraConfig
from alignjax.models.config import TransformerConfig
from alignjax.runs.experiment import Experiment

METHODS = ("pretrain", "sft", "reward", "dpo", "kto", "group")
SIZES = ("", "tiny", "micro")
VARIANTS = tuple(f"{m}-{size}" if size else m for m in METHODS for size in SIZES)


def get_config(variant: str = "") -> Experiment:
    wanted = variant or "sft"
    wanted = f"sft-{wanted}" if wanted in SIZES else wanted
    if wanted not in VARIANTS:
        raise ValueError(f"the variants are {', '.join(VARIANTS)}; got {variant!r}.")
    method, _, size = wanted.partition("-")
    stage = "dpo" if method in ("kto", "group") else method
    config = common.experiment(size or "tiny", stage)
    if method == "kto":
        config.algorithm = UnpairedConfig(beta=0.1)
    if method == "group":
        config.algorithm = GroupDpoConfig(beta=0.1)
    if size:
        lengths = {name: getattr(config.data, name) for name in ("length", "prompt_length")}
        config.data = FilesConfig(
            **lengths, vocab_size=config.data.vocab_size, max_truncated_share=1.0
        )
        return config
    config.model = TransformerConfig(compute_dtype="bfloat16", remat="full")
    config.data = FilesConfig(length=1024, prompt_length=768)
    config.adapter = LoraConfig(rank=16, alpha=32.0)
    rate = {"pretrain": 1e-4, "sft": 2e-4, "reward": 1e-4}.get(method, 5e-5)
    config.optim = dataclasses.replace(config.optim, learning_rate=rate)
    config.loop = dataclasses.replace(config.loop, steps=1000, batch_size=16)
    return config
