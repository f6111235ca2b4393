"""Process against outcome rewards on ChainWorld: best of n, votes and beams, equal labels.

Shows: a reward model of steps beats one of outcomes that saw the same solutions, and labels made
by 8 rollouts a step are nearly as good as exact ones (Lightman et al. 2023; Uesato et al. 2022;
Wang et al. 2024, Math-Shepherd). The policy is exact: each step is right with probability .75, so
that curves have closed forms; an answer that errs is right by luck now and then.
Variants: micro (for tests).
Hardware: 2 CPU cores. Three 26k-parameter models, trained from nothing.
Command: alignjax run --config=experiments/prm_chain.py --workdir=runs/prm_chain
Another seed: --config.seed=1 --config.data.seed=1
"""

from alignjax.algorithms.process_reward import ProcessRewardConfig
from alignjax.algorithms.scored_reward import ScoredRewardConfig
from alignjax.models.config import TransformerConfig
from alignjax.runs.experiment import Training
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig
from experiments.common.chain_policy import LabelledChainConfig
from experiments.common.chain_search import ChainSearch


def get_config(variant: str = "") -> ChainSearch:
    if variant not in ("", "micro"):
        raise ValueError(f"the variants are '' and 'micro'; got {variant!r}.")

    def training(algorithm) -> Training:
        return Training(
            algorithm=algorithm,
            optim=OptimConfig(learning_rate=3e-3, warmup_steps=20),
            loop=LoopConfig(steps=500, batch_size=64),
        )

    config = ChainSearch(
        model=TransformerConfig(
            layers=2, width=32, heads=2, kv_heads=2, head_dim=16, ff=96, rope_theta=30.0, unroll=2
        ),
        data=LabelledChainConfig(
            modulus=5, shortest=2, longest=4, demonstrations=2000, eval_rows=512,
            document_error=0.25,
        ),
        prm=training(ProcessRewardConfig()),
        mc=training(ProcessRewardConfig()),
        orm=training(ScoredRewardConfig(method="outcome_reward")),
        eval_batch=512,
    )  # fmt: skip
    if variant == "micro":
        config.model = TransformerConfig(width=16, heads=2, kv_heads=1, head_dim=8, ff=32, unroll=2)
        config.data.demonstrations = config.data.documents = config.data.prompts = 64
        config.data.eval_rows, config.questions, config.eval_batch = 16, 8, 32
        config.sizes, config.judged, config.least, config.most_apart = (1, 4), (4,), -1.0, 1.0
        for stage in ("prm", "mc", "orm"):
            loop = getattr(config, stage).loop
            loop.steps, loop.batch_size, loop.checkpoint_every = 3, 8, 2
    return config
