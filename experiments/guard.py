"""A guard: the probability of each category of unsafe text, on the embedded traffic or own rows.

Variants: "" and micro, on TrafficWorld, whose best guard is exact; rows, on a file of one's own
(docs/guards.md: text or turns, labels by category, null where unknown), and rows-micro.
Paper: Markov et al. 2023 (labels that are missing in part).
Measured, seeds 0 to 2 of both world and run: AUC .988 ± .002 and .975 ± .009 (mean and standard
deviation); of the best guard it is .990.
Hardware: 2 CPU cores, 1 minute; a 103k-parameter model.
Command: alignjax train --config=experiments/guard.py --workdir=runs/guard
    alignjax train --config=experiments/guard.py:rows --config.data.path=ROWS.jsonl \
    --config.data.categories=a,b --config.algorithm.categories=a,b --workdir=runs/own-guard
"""

from alignjax.algorithms.guard import GuardConfig
from alignjax.data.files import FilesConfig
from alignjax.models.config import TransformerConfig
from alignjax.runs.experiment import Experiment
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig
from alignjax.worlds import traffic
from alignjax.worlds.traffic_corpus import TrafficConfig

VARIANTS = ("", "micro", "rows", "rows-micro")


def get_config(variant: str = "") -> Experiment:
    if variant not in VARIANTS:
        names = ", ".join(map(repr, VARIANTS))
        raise ValueError(f"the variants are {names}; got {variant!r}.")
    model = TransformerConfig(
        layers=2, width=64, heads=4, kv_heads=2, head_dim=16, ff=176, unroll=2
    )
    config = Experiment(
        algorithm=GuardConfig(categories=",".join(traffic.CATEGORIES)),
        data=TrafficConfig(),
        model=model,
        optim=OptimConfig(learning_rate=2e-3),
        loop=LoopConfig(steps=300, batch_size=64),
    )
    if variant.startswith("rows"):
        config.algorithm = GuardConfig(categories="unsafe")
        config.data = FilesConfig(
            layout="guard", categories="unsafe", vocab_size=2048, length=256, prompt_length=255
        )
    if variant.endswith("micro"):
        config.model = TransformerConfig(
            layers=1, width=32, heads=2, kv_heads=1, head_dim=16, ff=64, unroll=1
        )
        config.loop = LoopConfig(steps=4, batch_size=16, checkpoint_every=2)
        if not variant.startswith("rows"):
            config.data = TrafficConfig(rows=128, eval_rows=64)
        else:
            config.data.vocab_size, config.data.length, config.data.prompt_length = 400, 64, 63
    return config
