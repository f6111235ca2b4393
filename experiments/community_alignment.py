"""Whose preferences a policy learns, by how answers are sampled and how groups are joined.

Shows: negatively correlated candidates (NC: as many of each kind as there are) hold answers of both
kinds several times as often as independent draws (Community Alignment, arXiv 2507.09650). Pooled
labels teach the pooled taste, group-robust DPO abstains where groups conflict (arXiv 2405.20304),
the maximin policy (MaxMin-RLHF, arXiv 2402.08925) lifts the worst group. Every win rate stands
beside its exact value for many comparisons.
Measured, seeds 0, 1, 2: both kinds in 13, 21, 64% of independent sets and 46, 61, 99% of NC ones;
of the worst-off group, groups' own policies win .08, .19, .13 more than the pooled one, the maximin
.019, .062, .008 more. A group's own policy is no better under NC here: a word's values are graded,
so that answers of one kind tell of the taste too.
Variants: micro (for tests).
Hardware: 2 CPU cores, 2 CPU minutes. A 30k-parameter model.
Command: alignjax run --config=experiments/community_alignment.py --workdir=runs/community
Another world: --config.data.seed=1 --config.seed=1
"""

from alignjax.algorithms.dpo import DpoConfig
from alignjax.algorithms.group_dpo import GroupDpoConfig
from alignjax.algorithms.pretrain import PretrainConfig
from alignjax.experiments.common.community import CommunityLifecycle
from alignjax.models.config import TransformerConfig
from alignjax.runs.experiment import Training
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig
from alignjax.worlds.values import ValueConfig


def get_config(variant: str = "") -> CommunityLifecycle:
    if variant not in ("", "micro"):
        raise ValueError(f"the variants are '' and 'micro'; got {variant!r}.")
    loop = LoopConfig(steps=150, batch_size=64)
    config = CommunityLifecycle(
        model=TransformerConfig(width=32, heads=2, kv_heads=1, head_dim=16, ff=64, unroll=2),
        data=ValueConfig(words=6, longest=3, shares=(0.6, 0.4), lean=1.5, documents=32768),
        pretrain=Training(
            algorithm=PretrainConfig(),
            optim=OptimConfig(learning_rate=3e-3),
            loop=LoopConfig(steps=600, batch_size=128),
        ),
        policy=Training(
            algorithm=DpoConfig(beta=1.0), optim=OptimConfig(learning_rate=1e-3), loop=loop
        ),
        robust=Training(
            algorithm=GroupDpoConfig(beta=1.0, step_size=0.1),
            optim=OptimConfig(learning_rate=1e-3),
            loop=loop,
        ),
    )
    return micro(config) if variant == "micro" else config


def micro(config: CommunityLifecycle) -> CommunityLifecycle:
    """The same stages in a minute: too short for the gates."""
    config.data = ValueConfig(
        words=3, longest=2, shares=(0.6, 0.4), documents=512, prompts=64, eval_rows=32
    )
    for stage, steps in (("pretrain", 20), ("policy", 2), ("robust", 2)):
        loop = getattr(config, stage).loop
        loop.steps, loop.batch_size = steps, 16
    config.comparisons, config.eval_batch, config.gates = 48, 64, False
    return config
