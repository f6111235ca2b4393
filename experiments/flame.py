"""FLAME in FactWorld: whose answers SFT imitates, and which rewards rank the answers of DPO.

Paper: Lin et al. 2024 (FLAME, arXiv 2405.01525).
Shows: people's answers, true but of facts that the model never read, teach it to invent; its own
answers in their place do not. Helpful DPO lowers precision; FLAME's are pairs by helpfulness and by
facts in one batch, by weight; true answers injected over the model's own are by far the worst.
Measured, seed 0, about entities held out of fine-tuning, precision: SFT on people's .52, on own
.64; helpful DPO .57, FLAME .55, facts only .51, injected .28. FLAME is more helpful (.67 against
.55) at helpful DPO's precision; that it is more precise is not reached at this size.
Variants: noisy (a verifier that errs in 10%; not measured); micro (for tests).
Hardware: 2 CPU cores, 5 CPU minutes where others worked too. Width 64, 2 layers.
Command: alignjax run --config=experiments/flame.py --workdir=runs/flame
Another world: --config.data.seed=1 --config.seed=1
"""

from alignjax.algorithms.dpo import DpoConfig
from alignjax.algorithms.guard import GuardConfig
from alignjax.algorithms.pretrain import PretrainConfig
from alignjax.algorithms.sft import SftConfig
from alignjax.experiments.common.factual import FactualLifecycle
from alignjax.models.config import TransformerConfig
from alignjax.runs.experiment import Training
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig
from alignjax.worlds import facts


def get_config(variant: str = "") -> FactualLifecycle:
    if variant not in ("", "noisy", "micro"):
        raise ValueError(f"the variants are '', 'noisy' and 'micro'; got {variant!r}.")
    config = FactualLifecycle(
        model=TransformerConfig(width=64, heads=4, kv_heads=2, head_dim=16, ff=128, unroll=2),
        data=facts.FactConfig(
            entities=120, known=96, values=16, coverage=0.6, chats=4, chat_share=0.3,
            told_share=0.4, unknown_share=0.25, idk_share=0.2, held_out=0.25, label_noise=0.05,
            demonstrations=3072, prompts=3072, eval_rows=1024,
        ),
        pretrain=Training(
            algorithm=PretrainConfig(),
            optim=OptimConfig(learning_rate=5e-3),
            loop=LoopConfig(steps=1500, batch_size=64),
        ),
        classifier=Training(
            algorithm=GuardConfig(categories=facts.LABEL),
            optim=OptimConfig(learning_rate=1e-3),
            loop=LoopConfig(steps=60, batch_size=64),
        ),
        sft=Training(
            algorithm=SftConfig(),
            optim=OptimConfig(learning_rate=3e-4),
            loop=LoopConfig(steps=100, batch_size=64),
        ),
        dpo=Training(
            algorithm=DpoConfig(beta=0.1),
            optim=OptimConfig(learning_rate=3e-4),
            loop=LoopConfig(steps=150, batch_size=64),
        ),
        fact_weight=3.0,
        tolerance=0.9,
    )  # fmt: skip
    if variant == "noisy":
        config.verifier_noise = 0.1
    return micro(config) if variant == "micro" else config


def micro(config: FactualLifecycle) -> FactualLifecycle:
    """The same stages in a minute: too short for the gates."""
    config.model = TransformerConfig(
        layers=1, width=32, heads=2, kv_heads=1, head_dim=16, ff=64, unroll=1
    )
    config.data = facts.FactConfig(
        entities=24, known=16, relations=3, values=4, coverage=0.6, chats=2, chat_share=0.3,
        told_share=0.4, unknown_share=0.25, idk_share=0.2, held_out=0.25, mentions=10,
        demonstrations=512, prompts=256, eval_rows=64, labels=64,
    )  # fmt: skip
    for stage, steps in (("pretrain", 150), ("classifier", 4), ("sft", 30), ("dpo", 2)):
        loop = getattr(config, stage).loop
        loop.steps, loop.batch_size = steps, 16
    config.eval_batch, config.gates = 256, False
    return config
