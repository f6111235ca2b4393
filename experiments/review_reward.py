"""Reward models of every kind on ReviewWorld, whose rewards are known exactly.

Variants: ranked (Plackett-Luce over the answers of a prompt; needs the pairs of a lifecycle,
--config.data.pairs=runs/lifecycle/pairs.npz), scored (least squares on the true reward), outcome
(the probability that it is above 0), process (the steps are adjectives, right if they earn reward).
Paper: Plackett 1975; Cobbe et al. 2021 (outcome); Lightman et al. 2023 (process).
Hardware: 2 CPU cores, 2 minutes a variant. A 103k-parameter model.
Command: alignjax train --config=experiments/review_reward.py:process --workdir=runs/process
"""

import dataclasses

import numpy as np

from alignjax.algorithms.process_reward import ProcessRewardConfig
from alignjax.algorithms.ranked_reward import RankedRewardConfig
from alignjax.algorithms.scored_reward import ScoredRewardConfig
from alignjax.data import corpus
from alignjax.models.config import TransformerConfig
from alignjax.runs.experiment import Experiment
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig
from alignjax.worlds.corpus import ReviewConfig

KINDS = {
    "": ScoredRewardConfig(),
    "ranked": RankedRewardConfig(),
    "scored": ScoredRewardConfig(),
    "outcome": ScoredRewardConfig(method="outcome_reward"),
    "process": ProcessRewardConfig(),
}


@dataclasses.dataclass(kw_only=True)
class OutcomeConfig(ReviewConfig):
    """ReviewWorld whose scores are labels: 1 where the true reward is above 0."""

    def make(self, log: corpus.Log) -> corpus.Corpus:
        world = super().make(log)

        def table(kind: str, split: str) -> corpus.Table:
            columns = world.table(kind, split)
            if kind == "scored":
                columns["scores"] = (columns["scores"] > 0).astype(np.float32)
            return columns

        return world._replace(table=table)


def get_config(variant: str = "") -> Experiment:
    kind, _, size = variant.partition("-")
    if kind not in KINDS or size not in ("", "micro"):
        names = ", ".join(f"{name!r}" for name in KINDS)
        raise ValueError(f"the variants are {names}, each also with -micro; got {variant!r}.")
    data = (OutcomeConfig if kind == "outcome" else ReviewConfig)(demonstrations=16384)
    config = Experiment(
        algorithm=dataclasses.replace(KINDS[kind]),
        data=data,
        model=TransformerConfig(unroll=2),
        optim=OptimConfig(learning_rate=2e-3),
        loop=LoopConfig(steps=512, batch_size=64),
    )
    if size == "micro":
        config.model = TransformerConfig(
            width=32, heads=2, kv_heads=1, head_dim=16, ff=64, unroll=2
        )
        config.data.demonstrations, config.data.eval_rows = 256, 64
        config.loop = LoopConfig(steps=4, batch_size=16, checkpoint_every=2)
    return config
