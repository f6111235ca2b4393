"""DRAFT

Hardware: 2 CPU cores.
Command: alignjax run --config=experiments/flame.py --workdir=runs/flame
"""

from alignjax.algorithms.dpo import DpoConfig
from alignjax.algorithms.guard import GuardConfig
from alignjax.algorithms.pretrain import PretrainConfig
from alignjax.algorithms.sft import SftConfig
from alignjax.models.config import TransformerConfig
from alignjax.runs.experiment import Training
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig
from alignjax.worlds import facts
from experiments.common.factual import FactualLifecycle


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
