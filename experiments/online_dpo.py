"""Online DPO, XPO and Nash-MD on the true reward of ReviewWorld.

Shows: pairs of the policy's own samples, ordered at every step, raise the reward that the order is
of (Guo et al. 2024); XPO's rival is the reference, with a bonus for what it does not say (Xie et
al. 2024); Nash-MD plays against a mixture of itself and the reference (Munos et al. 2023).
Variants: online_dpo, xpo or nash_md alone; micro (for tests).
Hardware: 2 CPU cores. A 103k-parameter model.
Command: alignjax run --config=experiments/online_dpo.py --workdir=runs/online_dpo
Another world: --config.data.world.seed=1 --config.seed=1
"""

from alignjax.algorithms.nash_md import NashMdConfig
from alignjax.algorithms.online_dpo import OnlineDpoConfig
from alignjax.algorithms.pretrain import PretrainConfig
from alignjax.algorithms.sft import SftConfig
from alignjax.algorithms.xpo import XpoConfig
from alignjax.lifecycles.lifecycle import Stage
from alignjax.lifecycles.listed import ListedLifecycle
from alignjax.models.config import TransformerConfig
from alignjax.runs.experiment import Training
from alignjax.sampling.transforms import SamplingConfig
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig
from alignjax.worlds.corpus import ReviewConfig

ARMS = ("online_dpo", "xpo", "nash_md")


def arm(name: str) -> Training:
    """160 iterations of 64 prompts, 2 samples each."""
    own = {"reward": "gold", "sampling": SamplingConfig(max_new_tokens=18)}
    method = {
        "online_dpo": lambda: OnlineDpoConfig(beta=0.3, **own),
        "xpo": lambda: XpoConfig(beta=0.3, **own),
        "nash_md": lambda: NashMdConfig(beta=0.05, **own),
    }[name]()
    return Training(
        algorithm=method,
        optim=OptimConfig(learning_rate=1e-3, schedule="linear", warmup_steps=0),
        loop=LoopConfig(steps=160, batch_size=64),
    )


def get_config(variant: str = "") -> ListedLifecycle:
    if variant not in ("", *ARMS, "micro"):
        raise ValueError(f"the variants are '', {', '.join(ARMS)} and micro; got {variant!r}.")
    chosen = (variant,) if variant in ARMS else ARMS
    pretrain = Training(
        algorithm=PretrainConfig(),
        optim=OptimConfig(learning_rate=3e-3),
        loop=LoopConfig(steps=900, batch_size=128),
    )
    sft = Training(
        algorithm=SftConfig(),
        optim=OptimConfig(learning_rate=1e-3),
        loop=LoopConfig(steps=256, batch_size=128),
    )
    config = ListedLifecycle(
        title="ReviewWorld: online preference",
        model=TransformerConfig(unroll=2),
        data=ReviewConfig(documents=115200, demonstrations=16384),
        stages=(
            Stage("pretrain", pretrain),
            Stage("sft", sft, policy="pretrain"),
            *(Stage(name, arm(name), policy="sft", reference="sft") for name in chosen),
        ),
        eval_batch=2048,
    )
    if variant == "micro":
        micro(config)
    return config


def micro(config: ListedLifecycle) -> None:
    """The same stages in seconds: too short to learn."""
    config.model = TransformerConfig(width=16, heads=2, kv_heads=1, head_dim=8, ff=32, unroll=2)
    config.data = ReviewConfig(documents=64, demonstrations=64, prompts=64, eval_rows=32)
    config.eval_batch = 32
    for stage in config.stages:
        loop = stage.training.loop
        loop.steps, loop.batch_size, loop.checkpoint_every = 3, 8, 2
