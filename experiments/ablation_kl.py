"""Where the KL penalty stands: in the reward, or in the loss by k2 or k3.

Paper: Ziegler et al. 2019 (arXiv 1909.08593), eq. 2, in the reward; Shao et al. 2024 (2402.03300),
eq. 3-4, in the loss by k3; Schulman 2020 (joschu.net, "Approximating KL divergence"), estimators.
Claim: as a loss on the policy's own samples, k2 has the gradient of KL(pi; ref) and so finds the
optimum that the penalty in the reward has, ref exp(r / beta) / Z; k3 has the gradient of
KL(ref; pi) and finds a more careful one at the same beta.
Analogue: chains of one step, whose base is right about four times in ten and whose optimum is known
in closed form. Which divergence an estimator's gradient belongs to hangs on no size. Rewards of a
group are centred by their own mean, so that a penalty in the loss weighs 16/15 as much as one in
the reward: for such a base k2 is to end .02 below the optimum, and k3 .08.
Draws and steps of tiny were raised once (32 and 150 to 128 and 250), after a first sweep that left
the null gate open; gates and bounds are as they were.
Variants: tiny (5 minutes on 2 CPU cores, 3 seeds), micro (for tests: too short to learn).
Hardware: 2 CPU cores. A model of 10k parameters.
Command: alignjax sweep --config=experiments/ablation_kl.py:tiny --workdir=runs/kl
"""

from alignjax.experiments.common.kl_control import KlControl
from alignjax.models.config import TransformerConfig
from alignjax.sweeps.record import Gate, Measure, Sweep
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig
from alignjax.worlds.chain import ChainConfig

# Measured with jax 0.10.2 on CPU: mean, sd of one seed, seeds.
EXPECTED = {
    "tiny": {
        "reward-0.5": {
            "pass rate": (0.809, 0.0429, 3),
            "KL": (0.37807, 0.0477, 3),
            "beyond optimum": (-0.0047828, 0.00655, 3),
        },
        "k2-0.5": {
            "pass rate": (0.78898, 0.0488, 3),
            "KL": (0.34446, 0.0428, 3),
            "beyond optimum": (-0.024802, 0.00664, 3),
        },
        "k3-0.5": {
            "pass rate": (0.73356, 0.0517, 3),
            "KL": (0.24834, 0.0316, 3),
            "beyond optimum": (-0.080222, 0.0118, 3),
        },
        "reward-1": {
            "pass rate": (0.62056, 0.082, 3),
            "KL": (0.10564, 0.00819, 3),
            "beyond optimum": (-0.012872, 0.0221, 3),
        },
        "reward-0.25": {
            "pass rate": (0.97481, 0.00962, 3),
            "KL": (0.8441, 0.146, 3),
            "beyond optimum": (0.0067698, 0.00532, 3),
        },
    },
}


def get_config(variant: str = "") -> KlControl:
    if variant not in ("", "tiny", "micro"):
        raise ValueError(f"the variants are '', 'tiny' and 'micro'; got {variant!r}.")
    config = KlControl(
        model=TransformerConfig(
            layers=1, width=32, heads=2, kv_heads=2, head_dim=16, ff=64, tied=False
        ),
        data=ChainConfig(
            modulus=5, shortest=1, longest=1, documents=8192, demonstrations=8192,
            document_error=0.45, eval_rows=64,
        ),
        optim=OptimConfig(learning_rate=3e-3, schedule="linear", warmup_steps=0),
        loop=LoopConfig(steps=400, batch_size=16),
        group=16,
        eval_batch=2048,
    )  # fmt: skip
    for training, steps in ((config.taught, 200), (config.base, 150)):
        training.optim = OptimConfig(learning_rate=5e-3)
        training.loop = LoopConfig(steps=steps, batch_size=128)
    if variant == "tiny":
        config.loop.steps = 250
    elif variant == "micro":
        config.draws, config.data.eval_rows, config.group = 4, 8, 4
        config.data.documents = config.data.demonstrations = config.data.prompts = 64
        for loop in (config.taught.loop, config.base.loop, config.loop):
            loop.steps, loop.batch_size = 3, 4
    return config


def sweep(variant: str = "") -> Sweep:
    def arm(place: str, beta: float) -> dict[str, object]:
        return {"place": place, "beta": beta}

    arms = {"reward-0.5": arm("reward", 0.5), "k2-0.5": arm("k2", 0.5), "k3-0.5": arm("k3", 0.5)}
    if variant != "micro":
        arms |= {"reward-1": arm("reward", 1.0), "reward-0.25": arm("reward", 0.25)}
    gates = (
        Gate(measure="KL", arm="reward-0.5", other="reward-1", rule=">", bound=0.0),
        Gate(measure="KL", arm="reward-0.25", other="reward-0.5", rule=">", bound=0.0),
        Gate(measure="pass rate", arm="k3-0.5", other="reward-0.5", rule="<", bound=0.0),
        Gate(measure="pass rate", arm="k3-0.5", other="k2-0.5", rule="<", bound=0.0),
        Gate(measure="pass rate", arm="k2-0.5", other="reward-0.5", rule="within", bound=0.05),
        Gate(measure="beyond optimum", arm="reward-0.5", rule="within", bound=0.04, kind="size"),
        Gate(measure="beyond optimum", arm="reward-1", rule="within", bound=0.04, kind="size"),
    )
    return Sweep(
        paper="Ziegler et al. 2019, eq. 2; Shao et al. 2024, eq. 3-4; Schulman 2020",
        claim="In the loss, k2 has the optimum of the penalty in the reward; k3 has another.",
        analogue="Chains of one step: the optimum ref exp(r / beta) / Z is known in closed form.",
        arms=arms,
        baseline="reward-0.5",
        seeds=3 if variant else 5,
        measures=(
            Measure(name="pass rate", row="policy", key="pass"),
            Measure(name="KL", row="policy", key="kl"),
            Measure(name="beyond optimum", row="policy", key="lead"),
        ),
        curves=(("policy", "reward"),),
        gates=() if variant == "micro" else gates,
        verdict="shape only" if variant == "tiny" else "",
    )
