"""Guess-a-number over several turns: GRPO finds bisection, whose return is known exactly.

Shows: episodes of several turns, trained by the return that an environment pays. The policy reads
games at random first, then plays: it is told higher or lower after each guess. Three guesses find
each of 7 numbers by bisection alone, so that the best mean return is 1; the gate is 5% below.
Hardware: 2 CPU cores, 2 minutes (100 CPU seconds). A 21k-parameter model.
Command: alignjax run --config=experiments/grpo_guess.py --workdir=runs/guess
Another seed: --config.seed=1
Variants: tiny (seconds, no gate, for tests).
"""

from alignjax.algorithms import grpo, pretrain
from alignjax.envs import games
from alignjax.lifecycles.lifecycle import Stage
from alignjax.lifecycles.listed import Bound, ListedLifecycle
from alignjax.models.config import TransformerConfig
from alignjax.runs.experiment import Training
from alignjax.sampling.transforms import SamplingConfig
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig
from alignjax.worlds import guess

NUMBERS, GUESSES = 7, 3
EXPECTED = {"": {"grpo": {"return": 0.996}}}  # jax 0.10.2 on CPU, seed 0


def get_config(variant: str = "") -> ListedLifecycle:
    if variant not in ("", "tiny"):
        raise ValueError(f"the variants are '' and 'tiny'; got {variant!r}.")
    best = guess.optimal_return(NUMBERS, GUESSES)
    read = Training(
        algorithm=pretrain.PretrainConfig(),
        optim=OptimConfig(learning_rate=3e-3),
        loop=LoopConfig(steps=100, batch_size=64),
    )
    play = Training(
        algorithm=grpo.GrpoConfig(
            method="dapo",
            compat="trl-1.16",
            entropy_weight=0.03,  # or a first guess beside the middle may be the last one tried
            reward="env",
            env=games.GuessNumber(numbers=NUMBERS, limit=GUESSES),
            group=16,
            patience=1000,  # once it is solved, groups have no signal
            sampling=SamplingConfig(max_new_tokens=1),
        ),
        optim=OptimConfig(learning_rate=3e-3, schedule="constant", warmup_steps=0),
        loop=LoopConfig(steps=200, batch_size=28),
    )
    config = ListedLifecycle(
        title="Guess a number",
        model=TransformerConfig(layers=2, width=32, heads=2, kv_heads=2, head_dim=16, ff=64),
        data=guess.GuessConfig(numbers=NUMBERS, guesses=GUESSES, eval_rows=72 * NUMBERS),
        stages=(Stage("random", read), Stage("grpo", play, policy="random")),
        bounds=(Bound("grpo", "return", ">=", 0.95 * best),),
    )
    if variant == "tiny":
        config.bounds = ()
        for training in (read, play):
            training.loop.steps = 2
            training.loop.checkpoint_every = 1
        config.data.documents, config.data.prompts, config.data.eval_rows = 128, 64, 14
    return config
