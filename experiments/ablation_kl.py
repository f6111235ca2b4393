"""Where the KL penalty stands: in the reward, or in the loss by k2 or k3.

Paper: Ziegler et al. 2019 (arXiv 1909.08593), eq. 2, in the reward; Shao et al. 2024 (2402.03300),
eq. 3-4, in the loss by k3; Schulman 2020 (joschu.net, "Approximating KL divergence"), estimators.
Claim: as a loss on the policy's own samples, k2 has the gradient of KL(pi; ref) and so finds the
optimum that the penalty in the reward has, ref exp(r / beta) / Z; k3 has the gradient of
KL(ref; pi) and finds a more careful one at the same beta.
Analogue: chains of one step, whose base is right with probability .55 and whose optimum is known in
closed form. Which divergence an estimator's gradient belongs to hangs on no size.
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

EXPECTED: dict[str, dict[str, dict[str, tuple[float, float, int]]]] = {}


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
    )
