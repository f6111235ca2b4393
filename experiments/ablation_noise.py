"""Labels of which a fifth are turned round: DPO, conservative DPO and robust DPO at one beta.

Paper: Ray Chowdhury et al. 2024 (arXiv 2403.00409), section 3 and table 1 (robust DPO); Mitchell
2023 ("A note on DPO with noisy preferences", conservative DPO).
Claim: with flip_rate at the true rate, robust DPO's loss is unbiased for that of clean labels, and
its policy gains more than DPO's at equal beta; conservative DPO bounds the margin and gains less.
Analogue: ReviewWorld, whose labels are Bradley-Terry of a known reward and whose flips are ours.
What a flip does to the loss of a pair hangs on no size. Gains at equal beta go with KL: nothing is
claimed of gains at equal KL, by which conservative DPO is no worse.
Variants: tiny (3 seeds), micro (for tests: too short to learn).
Hardware: 2 CPU cores. A 103k-parameter model; tiny: 31k.
Command: alignjax sweep --config=experiments/ablation_noise.py:tiny --workdir=runs/noise
"""

from alignjax.algorithms import dpo
from alignjax.experiments.common.review import ReviewLifecycle
from alignjax.models.config import TransformerConfig
from alignjax.sweeps.record import Gate, Measure, Sweep
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig
from alignjax.worlds.corpus import ReviewConfig

FLIP, BETA = 0.2, 0.3
STEPS = {  # of pretrain, sft, reward, dpo
    "": (900, 256, 256, 361),
    "tiny": (400, 100, 60, 200),
    "micro": (3, 3, 3, 3),
}
EXPECTED: dict[str, dict[str, dict[str, tuple[float, float, int]]]] = {}


def get_config(variant: str = "") -> ReviewLifecycle:
    if variant not in STEPS:
        raise ValueError(f"the variants are {', '.join(map(repr, STEPS))}; got {variant!r}.")
    config = ReviewLifecycle(
        model=TransformerConfig(unroll=2),
        data=ReviewConfig(documents=115200, demonstrations=16384),
        pair_prompts=4096,
        label_flip=FLIP,
        dpo_betas=(BETA,),
        ppo_betas=(),
        gold_betas=(),
        best_of=2,
        gates=False,
    )
    config.dpo.algorithm = dpo.DpoConfig(beta=BETA)
    rates = {"pretrain": 3e-3, "sft": 1e-3, "reward": 2e-3, "dpo": 1e-3}
    for (stage, rate), steps in zip(rates.items(), STEPS[variant], strict=True):
        training = getattr(config, stage)
        batch = 16 if stage in ("reward", "dpo") else 128  # prompts of 6 comparisons, or rows
        training.optim = OptimConfig(learning_rate=rate)
        training.loop = LoopConfig(steps=steps, batch_size=batch)
    if variant:
        small = {"width": 32, "heads": 2, "kv_heads": 1, "head_dim": 16, "ff": 64}
        config.model = TransformerConfig(**small, unroll=2)
        config.data = ReviewConfig(documents=51200, demonstrations=8192, eval_rows=1024)
        config.eval_batch = 1024
    if variant == "micro":
        config.data = ReviewConfig(documents=512, demonstrations=512, prompts=64, eval_rows=32)
        config.pair_prompts, config.best_of_prompts, config.eval_batch = 32, 8, 32
        for stage in rates:
            getattr(config, stage).loop.batch_size = 8
    return config


def sweep(variant: str = "") -> Sweep:
    def arm(method: str, **options: float) -> dict[str, object]:
        return {f"dpo.algorithm.{n}": v for n, v in {"method": method, **options}.items()}

    row = f"dpo-{BETA:g}"
    gates = (
        Gate(measure="gold reward", arm="rdpo", other="dpo", rule=">", bound=0.0),
        Gate(measure="gold reward", arm="dpo", other="cdpo", rule=">", bound=0.0),
        Gate(measure="KL", arm="rdpo", other="dpo", rule=">", bound=0.0),
        Gate(measure="gold reward", arm="rdpo", other="dpo", rule=">=", bound=0.5, kind="size"),
    )
    return Sweep(
        paper="Ray Chowdhury et al. 2024, section 3; Mitchell 2023",
        claim="With a fifth of the labels turned round, robust DPO gains more than DPO at one "
        "beta, and conservative DPO less.",
        analogue="ReviewWorld: Bradley-Terry labels of a known reward, flips of our own.",
        arms={
            "dpo": arm("dpo"),
            "cdpo": arm("dpo", label_smoothing=FLIP),
            "rdpo": arm("robust_dpo", flip_rate=FLIP),
        },
        baseline="dpo",
        seeds=3 if variant else 5,
        measures=(
            Measure(name="gold reward", row=row, key="gold", digits=2),
            Measure(name="KL", row=row, key="kl", digits=2),
            Measure(name="efficiency", row=row, key="efficiency"),
        ),
        curves=((row, "margin"),),
        gates=() if variant == "micro" else gates,
    )
