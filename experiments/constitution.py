"""A constitution in ReviewWorld: critique, revision, SFT, AI pairs, DPO, beside the exact effect.

Paper: Bai et al. 2022 (Constitutional AI), sections 3.1 and 4.1; Lee et al. 2023 (RLAIF).
Shows: principles of a text file, by which the pretrained policy's answers are criticised and
written anew, and pairs of the next policy's answers are labelled in both orders. How many revised
answers still break a principle is known exactly; true reward is measured beside it.
Measured, seeds 0, 1, 2 of world and run (mean and standard deviation): of the pretrained policy's
answers .111 ± .003 break a principle, after SFT on revisions .033 ± .002, after DPO .013 ± .001;
true reward -.49, -.26, -.12. DPO also shortens answers, 7.8 to 4.7 tokens: a short one breaks less.
Variants: ppo (on a reward model of the AI pairs); micro (for tests).
Hardware: 2 CPU cores, 3 CPU minutes where others worked too. Width 32, 2 layers.
Command: alignjax run --config=experiments/constitution.py --workdir=runs/constitution
Another world: --config.data.world.seed=1 --config.seed=1
Other principles: --config.principles=FILE.txt; a judge that errs: --config.accuracy=0.8
"""

from alignjax.algorithms.dpo import DpoConfig
from alignjax.algorithms.ppo import PpoConfig
from alignjax.algorithms.pretrain import PretrainConfig
from alignjax.algorithms.reward import RewardConfig
from alignjax.algorithms.sft import SftConfig
from alignjax.experiments.common.constitutional import ConstitutionLifecycle
from alignjax.models.config import TransformerConfig
from alignjax.runs.experiment import Training
from alignjax.sampling.transforms import SamplingConfig
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig
from alignjax.worlds.corpus import ReviewConfig


def get_config(variant: str = "") -> ConstitutionLifecycle:
    if variant not in ("", "ppo", "micro"):
        raise ValueError(f"the variants are '', 'ppo' and 'micro'; got {variant!r}.")
    config = ConstitutionLifecycle(
        model=TransformerConfig(width=32, heads=2, kv_heads=1, head_dim=16, ff=64, unroll=2),
        data=ReviewConfig(documents=32768, prompts=8192, eval_rows=2048),
        pretrain=Training(
            algorithm=PretrainConfig(),
            optim=OptimConfig(learning_rate=5e-3),
            loop=LoopConfig(steps=500, batch_size=64),
        ),
        sft=Training(
            algorithm=SftConfig(),
            optim=OptimConfig(learning_rate=2e-3),
            loop=LoopConfig(steps=300, batch_size=64),
        ),
        reward=Training(
            algorithm=RewardConfig(),
            optim=OptimConfig(learning_rate=2e-3),
            loop=LoopConfig(steps=60, batch_size=32),
        ),
        policy=Training(
            algorithm=DpoConfig(beta=0.3),
            optim=OptimConfig(learning_rate=2e-4),
            loop=LoopConfig(steps=60, batch_size=64),
        ),
        compared=6144,
    )
    if variant == "ppo":
        config.policy = Training(
            algorithm=PpoConfig(
                epochs=4, kl_coefficient=0.3, sampling=SamplingConfig(max_new_tokens=18)
            ),
            optim=OptimConfig(learning_rate=1e-3, schedule="linear", warmup_steps=0),
            loop=LoopConfig(steps=15, batch_size=256),
        )
    return micro(config) if variant == "micro" else config


def micro(config: ConstitutionLifecycle) -> ConstitutionLifecycle:
    """The same stages in a minute: too short for the gates."""
    config.model = TransformerConfig(
        layers=1, width=16, heads=1, kv_heads=1, head_dim=16, ff=32, unroll=1
    )
    config.data = ReviewConfig(documents=512, prompts=512, eval_rows=64)
    for stage, steps in (("pretrain", 20), ("sft", 4), ("reward", 2), ("policy", 2)):
        loop = getattr(config, stage).loop
        loop.steps, loop.batch_size = steps, 16
    config.revisions, config.compared, config.eval_batch, config.gates = 64, 64, 256, False
    return config
