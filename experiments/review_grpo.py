"""GRPO and RLOO on the true reward of ReviewWorld, against its exact KL-regularised optimum.

Shows: without a critic, and with the KL in the reward, both find the policy that exact dynamic
programming says is the best, as PPO does (Ahmadian et al. 2024, section 2; Shao et al. 2024). What
is measured is KL(policy || optimum) = log Z - E r / beta + KL(policy || SFT), in nats.
Variants: grpo or rloo alone; micro (for tests).
Hardware: 2 CPU cores. A 103k-parameter model.
Command: alignjax run --config=experiments/review_grpo.py --workdir=runs/review_grpo
Another world: --config.data.world.seed=1 --config.seed=1
"""

from alignjax.algorithms.grpo import GrpoConfig
from alignjax.algorithms.pretrain import PretrainConfig
from alignjax.algorithms.reinforce import ReinforceConfig
from alignjax.algorithms.sft import SftConfig
from alignjax.experiments.common.optimum import OptimumLifecycle
from alignjax.lifecycles.lifecycle import Stage
from alignjax.models.config import TransformerConfig
from alignjax.runs.experiment import Training
from alignjax.sampling.transforms import SamplingConfig
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig
from alignjax.worlds.corpus import ReviewConfig

BETA = 2.0
ARMS = ("grpo", "rloo")


def arm(name: str) -> Training:
    """160 iterations of 64 prompts, 8 samples each."""
    own = {
        "group": 8,
        "reward": "gold",
        "kl_in_reward": BETA,
        "sampling": SamplingConfig(max_new_tokens=18),
    }
    method = {
        "grpo": lambda: GrpoConfig(method="dr_grpo", epochs=2, minibatches=2, **own),
        "rloo": lambda: ReinforceConfig(method="rloo_clip", epochs=2, minibatches=2, **own),
    }[name]()
    return Training(
        algorithm=method,
        optim=OptimConfig(learning_rate=1e-3, schedule="linear", warmup_steps=0),
        loop=LoopConfig(steps=160, batch_size=64),
    )


def get_config(variant: str = "") -> OptimumLifecycle:
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
    config = OptimumLifecycle(
        title="ReviewWorld: critic-free methods against the exact optimum",
        model=TransformerConfig(unroll=2),
        data=ReviewConfig(documents=115200, demonstrations=16384),
        stages=(
            Stage("pretrain", pretrain),
            Stage("sft", sft, policy="pretrain"),
            *(Stage(name, arm(name), policy="sft") for name in chosen),
        ),
        arms=chosen,
        reach=1.0,
        beta=BETA,
        limit=0.15,
        eval_batch=2048,
    )
    if variant == "micro":
        micro(config)
    return config


def micro(config: OptimumLifecycle) -> None:
    """The same stages in seconds: too short to learn."""
    config.model = TransformerConfig(width=16, heads=2, kv_heads=1, head_dim=8, ff=32, unroll=2)
    config.data = ReviewConfig(documents=64, demonstrations=64, prompts=64, eval_rows=32)
    config.eval_batch, config.optimum_prompts, config.optimum_draws = 32, 4, 8
    config.limit = 0.0
    for stage in config.stages:
        loop = stage.training.loop
        loop.steps, loop.batch_size, loop.checkpoint_every = 3, 8, 2
