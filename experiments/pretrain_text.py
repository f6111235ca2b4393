"""Next-token pretraining on plain text, with the perplexity of held-out text in the loop.

Raffel et al. 2020 (C4, the corpus), Hoffmann et al. 2022 (about 20 tokens for each parameter).
Hardware: a v5e-16 (380M parameters); `:gpu8` for 8 GPUs. `:tiny` (1.1M parameters, a mixture by
    weight of two folders of text, a tokenizer trained on them) for 2 CPU cores, `:micro` for tests.
    None but these two has been run.
Command: alignjax train --config=experiments/pretrain_text.py --config.data.tokenizer=MODEL \
    --workdir=runs/text
    with c4/en:3.1.0 prepared in TFDS_DATA_DIR (file_format="array_record"); or, with text files,
    alignjax train --config=experiments/pretrain_text.py:tiny --config.data.paths=WIKI,BOOKS \
    --config.data.weights=3,1 --workdir=runs/text
    --config.data.document_masks=false lets documents that share a row see those before them.
"""

import dataclasses

from alignjax.data.files import FilesConfig
from alignjax.data.mixture import CorporaConfig
from alignjax.experiments import common
from alignjax.runs.experiment import Experiment


def get_config(variant: str = "") -> Experiment:
    config = common.experiment(variant, "pretrain")
    shared = {"layout": "text", "length": config.data.length, "vocab_size": config.data.vocab_size}
    shared["prompt_length"] = config.data.length // 2  # text has no prompt
    if variant in ("tiny", "micro"):
        config.data = CorporaConfig(
            paths=("data/text/one", "data/text/other"), weights=(3.0, 1.0), **shared
        )
    else:
        config.data = FilesConfig(tfds=common.C4, **shared)
    every = {"micro": 3, "tiny": 100}.get(variant, 1000)
    config.loop = dataclasses.replace(config.loop, evaluate_every=every)
    return config
