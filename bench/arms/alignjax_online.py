"""Iterations of GRPO, RLOO and PPO by AlignJAX: `training.steps`, samples in chunks.

Where lengths differ, rows are packed and each ends at its own limit: the sampler takes one for each
row, and the methods' `collect` has no such option, so its sampler is wrapped here.
"""

import functools
from typing import Any
from unittest import mock

import jax
import numpy as np

from alignjax import training
from alignjax.algorithms import grpo, policy_gradient, ppo, reinforce
from alignjax.models import transformer
from alignjax.models.checkpoints import heads
from alignjax.sampling import generate, transforms
from alignjax.training import algorithm
from bench import turns, workloads
from bench.arms import alignjax_common as common


def score(frozen: Any, samples: Any, columns: Any) -> np.ndarray:
    """[R] rewards of completions, row by row on the host."""
    tokens, mask = np.asarray(samples.tokens), np.asarray(samples.mask)
    return np.array([workloads.reward(t[m]) for t, m in zip(tokens, mask, strict=True)], np.float32)


def limited(make: Any, lengths: np.ndarray, *args: Any, **options: Any) -> Any:
    """The sampler that `make` makes, whose rows end at these lengths."""
    run = make(*args, **options)
    return functools.partial(run, options=transforms.RowOptions(limit=lengths))


def method_of(task: turns.Task) -> algorithm.Algorithm:
    case, workload = task.case, task.case.workload
    model = transformer.transformer(common.config_of(task))
    shared = {
        "reward": "gold",
        "sampling": transforms.SamplingConfig(max_new_tokens=case.shape.new, rungs=4),
    }
    given = {"reward": score, "eos": -1, "pad": workloads.PAD}
    if workload.kind == "ppo":
        config = ppo.PpoConfig(kl_coefficient=workload.beta, epochs=1, minibatches=1, **shared)
        return ppo.ppo(model, config, **given)
    shared |= {"group": workload.group, "pack": workload.lengths is not None}
    if workload.kind == "grpo":
        config = grpo.GrpoConfig(method="grpo", kl_weight=workload.beta, **shared)
    else:
        config = reinforce.ReinforceConfig(kl_in_reward=workload.beta, **shared)
    return policy_gradient.policy_gradient(model, config, prompts=case.prompts, **given)


def run(task: turns.Task, told: turns.Turns) -> None:
    case = task.case
    if case.workload.lengths is None:
        method = method_of(task)
    else:
        make = functools.partial(limited, generate.make_generate, case.lengths(0))
        with mock.patch.object(generate, "make_generate", make):
            method = method_of(task)
    params = common.policy(task)
    start, trained = {"policy": params}, params
    if case.workload.kind == "ppo":
        start["value"] = heads.open_reward(task.weights / "scorer").load()
        trained = dict(start)
    tx = common.optimizer(trained, task.count)
    told.ready(parameters=common.size(trained), versions=common.versions())
    state = training.initial_state(method, tx, start=start)

    def batch(step: int) -> dict[str, np.ndarray]:
        return {
            "prompts": case.prompt_ids(step),
            "lengths": np.full(case.prompts, case.shape.prompt, np.int32),
            "index": np.arange(case.prompts, dtype=np.int32),
        }

    steps = training.steps(
        method, batch, tx, state=state, frozen={"reference": params}, until=task.count
    )
    del state, start, trained, params
    for _ in range(task.count):
        told.begin()
        state, metrics = next(steps)
        jax.block_until_ready((state, metrics))
        length = metrics["length"]  # its mean over rows
        told.end(
            tokens=round(float(length.value) * case.shape.rows),
            loss=float(metrics["loss"].value),
        )


if __name__ == "__main__":
    run(turns.task(), turns.Turns())
