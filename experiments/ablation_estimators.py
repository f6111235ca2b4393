"""Estimators of critic-free reinforcement learning at equal samples.

Paper: Ahmadian et al. 2024 (arXiv 2402.14740), section 5; Shao et al. 2024 (2402.03300), section
4.1; Liu et al. 2025 (2503.20783), section 3.
Claim: a baseline from the other samples of a prompt is what critic-free methods live on: RLOO and
GRPO learn far faster than REINFORCE without a baseline, while how the group's rewards are
normalised (GRPO, Dr. GRPO, DAPO, RLOO) matters little in comparison.
Analogue: ChainWorld, whose verifier is exact; most groups of 8 have right and wrong answers.
Found (tiny): not reproduced. With the verifier's 0/1 rewards, most of them 0 at first, REINFORCE
without a baseline only lifts right answers and is not slower: RLOO ends .06 below it (3 seeds). The
rewards of Ahmadian et al. are scores of any sign, and other runs are far longer. That
normalisations differ little does hold.
Setup: a first tiny sweep with chains of up to 3 steps was not testable (2 of 12 runs ended with
every group dead); chains were shortened to 2, the policy's steps to 60, and the mean reward is that
of all steps instead of the last 10.
Variants: tiny (5 minutes on 2 CPU cores, 3 seeds), micro (for tests: too short to learn).
Hardware: 2 CPU cores. A 236k-parameter model; tiny: 31k.
Command: alignjax sweep --config=experiments/ablation_estimators.py:tiny --workdir=runs/estimators
"""

from alignjax.experiments.common.critic_free import CriticFree
from alignjax.models.config import TransformerConfig
from alignjax.sweeps.record import Gate, Measure, Sweep
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig
from alignjax.worlds.chain import ChainConfig

ARMS = ("reinforce", "rloo", "grpo", "dr_grpo", "dapo")
# Measured with jax 0.10.2 on CPU: mean, sd of one seed, seeds.
EXPECTED = {
    "tiny": {
        "reinforce": {
            "pass@1": (0.85645, 0.168, 3),
            "base pass@1": (0.29167, 0.0655, 3),
            "mean reward": (0.64457, 0.2, 3),
        },
        "rloo": {
            "pass@1": (0.79297, 0.157, 3),
            "base pass@1": (0.29167, 0.0655, 3),
            "mean reward": (0.61081, 0.198, 3),
        },
        "grpo": {
            "pass@1": (0.80371, 0.131, 3),
            "base pass@1": (0.29167, 0.0655, 3),
            "mean reward": (0.61463, 0.187, 3),
        },
        "dr_grpo": {
            "pass@1": (0.81868, 0.161, 3),
            "base pass@1": (0.29167, 0.0655, 3),
            "mean reward": (0.6217, 0.183, 3),
        },
    },
}


def get_config(variant: str = "") -> CriticFree:
    if variant not in ("", "tiny", "micro"):
        raise ValueError(f"the variants are '', 'tiny' and 'micro'; got {variant!r}.")
    config = CriticFree(
        model=TransformerConfig(
            width=96, heads=4, kv_heads=4, head_dim=32, ff=256, rope_theta=30.0, tied=False,
            unroll=2,
        ),
        data=ChainConfig(
            modulus=7, shortest=1, longest=4, documents=20000, demonstrations=64000,
            document_error=0.45,
        ),
        optim=OptimConfig(learning_rate=3e-4, schedule="constant"),
        loop=LoopConfig(steps=200, batch_size=16, evaluate_every=50, evaluate_rows=256),
        eval_batch=256,
    )  # fmt: skip
    config.taught.optim = OptimConfig(learning_rate=1e-3, warmup_steps=50)
    config.taught.loop = LoopConfig(steps=900, batch_size=128)
    config.base.optim = OptimConfig(learning_rate=1e-3)
    config.base.loop = LoopConfig(steps=100, batch_size=128)
    if variant == "tiny":
        config.model.width, config.model.head_dim, config.model.ff = 48, 16, 96
        config.data.modulus, config.data.longest = 5, 2
        config.taught.optim.learning_rate = 3e-3
        config.taught.loop.steps, config.optim.learning_rate = 300, 1e-3
        config.loop.steps, config.loop.evaluate_every = 60, 0
        config.data.eval_rows = 256
    elif variant == "micro":
        micro(config)
    return config


def micro(config: CriticFree) -> None:
    """The same stages in seconds."""
    config.model = TransformerConfig(width=16, heads=2, kv_heads=1, head_dim=8, ff=32, unroll=2)
    config.data.documents = config.data.demonstrations = config.data.prompts = 64
    config.data.eval_rows = config.eval_batch = 16
    for loop in (config.taught.loop, config.base.loop, config.loop):
        loop.steps, loop.batch_size, loop.checkpoint_every = 3, 4, 2
        loop.evaluate_every, loop.evaluate_rows = 0, 16


def sweep(variant: str = "") -> Sweep:
    arms = {"micro": ARMS[:3], "tiny": ARMS[:4]}.get(variant, ARMS)
    return Sweep(
        paper="Ahmadian et al. 2024, section 5; Shao et al. 2024; Liu et al. 2025",
        claim="A baseline from the group is what matters; its normalisation is not.",
        analogue="ChainWorld: rewards of 0 and 1 by an exact verifier, where a sample without a "
        "baseline only lifts right answers.",
        arms={name: {"estimator": name} for name in arms},
        baseline="reinforce",
        seeds=3 if variant else 5,
        measures=(
            Measure(name="pass@1", row="policy", key="pass@1"),
            Measure(name="base pass@1", row="policy", key="first"),
            Measure(name="mean reward", stage="policy", key="reward", take="area"),
        ),
        curves=(("policy", "reward"),),
        verdict="not reproduced" if variant == "tiny" else "",
        gates=()
        if variant == "micro"
        else (
            Gate(measure="base pass@1", arm="reinforce", rule="<=", bound=0.6, kind="premise"),
            Gate(measure="pass@1", arm="rloo", other="reinforce", rule=">", bound=0.0),
            Gate(measure="pass@1", arm="grpo", other="reinforce", rule=">", bound=0.0),
            *(
                Gate(measure="pass@1", arm=arm, other="rloo", rule="within", bound=0.1)
                for arm in arms[2:]
            ),
        ),
    )
