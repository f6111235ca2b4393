"""Process against outcome rewards on ChainWorld: best of n, votes and beams, equal labels.

Asks whether a reward model of steps beats one of outcomes that saw the same solutions, which is a
gate, and what labels made by 8 rollouts a step cost (Lightman et al. 2023; Uesato et al. 2022; Wang
et al. 2024, Math-Shepherd). The policy is exact: each step is right with probability .7, so that
curves have closed forms; an answer that errs is right by luck now and then. All reward models start
from a language model that knows the arithmetic, and see the same 16000 labelled solutions.
Variants: micro (for tests).
Hardware: 2 CPU cores. A 140k-parameter model.
Command: alignjax run --config=experiments/prm_chain.py --workdir=runs/prm_chain
Another seed: --config.seed=1 --config.data.seed=1
"""

from alignjax.algorithms.process_reward import ProcessRewardConfig
from alignjax.algorithms.scored_reward import ScoredRewardConfig
from alignjax.algorithms.sft import SftConfig
from alignjax.experiments.common.chain_policy import LabelledChainConfig
from alignjax.experiments.common.chain_search import ChainSearch
from alignjax.models.config import TransformerConfig
from alignjax.runs.experiment import Training
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig


def get_config(variant: str = "") -> ChainSearch:
    if variant not in ("", "micro"):
        raise ValueError(f"the variants are '' and 'micro'; got {variant!r}.")

    def training(algorithm, steps: int, batch_size: int, rate: float) -> Training:
        return Training(
            algorithm=algorithm,
            optim=OptimConfig(learning_rate=rate, warmup_steps=20),
            loop=LoopConfig(steps=steps, batch_size=batch_size),
        )

    config = ChainSearch(
        model=TransformerConfig(
            layers=4, width=64, heads=4, kv_heads=4, head_dim=16, ff=128, rope_theta=30.0,
            tied=False, unroll=4,
        ),
        data=LabelledChainConfig(
            modulus=5, shortest=2, longest=3, demonstrations=32000, eval_rows=512,
            document_error=0.3, labelled=16000,
        ),
        taught=training(SftConfig(), 500, 128, 2e-3),
        prm=training(ProcessRewardConfig(), 1500, 64, 1e-3),
        mc=training(ProcessRewardConfig(), 1500, 64, 1e-3),
        orm=training(ScoredRewardConfig(method="outcome_reward"), 1500, 64, 1e-3),
        eval_batch=512,
    )  # fmt: skip
    return micro(config) if variant == "micro" else config


def micro(config: ChainSearch) -> ChainSearch:
    """The same stages in seconds: too short for the gates."""
    config.model = TransformerConfig(width=16, heads=2, kv_heads=1, head_dim=8, ff=32, unroll=2)
    data = config.data
    data.demonstrations = data.documents = data.prompts = data.labelled = 64
    data.eval_rows, config.questions, config.eval_batch = 16, 8, 32
    config.sizes, config.judged, config.least = (1, 4), (4,), -1.0
    for stage in ("taught", "prm", "mc", "orm"):
        loop = getattr(config, stage).loop
        loop.steps, loop.batch_size, loop.checkpoint_every = 3, 8, 2
    return config
