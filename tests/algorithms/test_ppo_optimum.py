"""PPO finds the policy that exact dynamic programming says is the best.

Sampling, log-probabilities, KL, advantages, clipping and the optimizer all have to be right for
this, and the answer is a number known in advance.
"""

import pathlib
from typing import Any

import numpy as np
import pytest

from alignjax.evals import policy as policies
from alignjax.runs import evaluation
from alignjax.sampling import transforms
from alignjax.worlds import oracle
from tests.commands import cli

BETA = 2.0
LIMIT = 0.10  # nats a completion, after 160 iterations
PROMPTS, DRAWS = 256, 128

CONFIG = """
from alignjax.algorithms.ppo import PpoConfig
from alignjax.runs.experiment import Experiment
from alignjax.sampling.transforms import SamplingConfig
from alignjax.training.loop import LoopConfig
from alignjax.training.optim import OptimConfig
from alignjax.experiments import lifecycle

FOLDER = {folder!r}

def get_config(stage):
    config = lifecycle.get_config()
    if stage == "ppo":
        return Experiment(
            algorithm=PpoConfig(
                kl_coefficient={beta}, reward="gold", epochs=4, decay=0.95,
                sampling=SamplingConfig(max_new_tokens=18),
            ),
            optim=OptimConfig(learning_rate=1e-3, schedule="linear", warmup_steps=0),
            loop=LoopConfig(steps=160, batch_size=256),
            model=config.model, data=config.data, policy=FOLDER + "/sft",
        )
    training = getattr(config, stage)
    return Experiment(
        algorithm=training.algorithm, optim=training.optim, loop=training.loop,
        model=config.model, data=config.data,
        policy=FOLDER + "/pretrain" if stage == "sft" else "",
    )
"""


def draw(run: evaluation.Run, policy: Any, reference: Any, prompts: np.ndarray) -> Any:
    """(gold reward, KL to the reference) [P, DRAWS] of completions drawn from a policy."""
    sample = policies.make_sampler(
        run.model("policy"), transforms.SamplingConfig(max_new_tokens=18),
        eos=run.corpus.eos, pad=run.corpus.pad, rows=2048,
    )  # fmt: skip
    repeated = np.repeat(prompts, DRAWS, axis=0)
    widths = np.full(len(repeated), prompts.shape[1], np.int32)
    drawn = sample(policy, reference, {"prompts": repeated, "lengths": widths}, seed=5)
    gold = run.corpus.gold(drawn.tokens, drawn.lengths)
    return gold.reshape(-1, DRAWS), drawn.kl.reshape(-1, DRAWS)


def log_mean_exp(x: np.ndarray) -> np.ndarray:
    """log mean exp over draws, with the first-order bias of the logarithm taken off."""
    top = x.max(axis=1, keepdims=True)
    weight = np.exp(x - top)
    mean = weight.mean(axis=1)
    return np.log(mean) + top[:, 0] + 0.5 * weight.var(axis=1, ddof=1) / mean**2 / x.shape[1]


def run(folder: pathlib.Path) -> dict[str, float]:
    """KL(policy || exact optimum) in nats a completion, and what it consists of.

    KL(pi || pi*) = log Z - E r / beta + KL(pi || ref), with log Z = log E_ref exp(r / beta). The
    policy's reference is the SFT model, which is close to the generator of the world but not equal:
    log Z of the generator is exact, that of the SFT model is the exact one plus their measured
    difference on the same prompts.
    """
    file = folder / "stages.py"
    file.write_text(CONFIG.format(folder=str(folder), beta=BETA))
    for stage in ("pretrain", "sft", "ppo"):
        if not (folder / stage).exists():
            cli.run(
                "train", f"--config={file}:{stage}", f"--workdir={folder / stage}",
                quick=False, timeout=3000,
            )  # fmt: skip
    opened = evaluation.open_run(folder / "ppo")
    reference, policy = (
        evaluation.open_run(folder / stage).joined("policy") for stage in ("sft", "ppo")
    )
    prompts = opened.corpus.read("prompts", "eval")["prompts"][:PROMPTS]
    exact = oracle.exact_optimum(opened.corpus.world, prompts, (BETA,))
    gold, kl = draw(opened, policy, reference, prompts)
    sft_gold, _ = draw(opened, reference, reference, prompts)
    log_z = log_mean_exp(sft_gold / BETA)
    distance = log_z - gold.mean(1) / BETA + kl.mean(1)
    return {
        "distance": float(distance.mean()),
        "se": float(distance.std() / np.sqrt(len(distance))),
        "gold": float(gold.mean()),
        "kl": float(kl.mean()),
        "log Z, SFT": float(log_z.mean()),
        "log Z, generator": float(exact.log_z[0]),
        "optimum gold": float(exact.reward[0]),
        "optimum kl": float(exact.kl[0]),
    }


@pytest.mark.slow
def test_ppo_on_the_true_reward_reaches_the_exact_optimum(tmp_path):
    found = run(tmp_path)
    print(found)
    assert abs(found["log Z, SFT"] - found["log Z, generator"]) < 0.15, found
    assert found["distance"] <= LIMIT, found
    assert found["distance"] >= -3 * found["se"], found  # closer than 0 is a bug, not a success
