"""Iterations by AlignJAX: `training.steps` of its GRPO, samples in chunks, rows packed.

A row's length is its own limit: the sampler takes one for each row, and the method's `collect` has
no such option, so its sampler is wrapped here.
"""

import functools
from typing import Any
from unittest import mock

import jax
import numpy as np
import workload

import alignjax
from alignjax import training
from alignjax.algorithms import grpo, policy_gradient
from alignjax.models import transformer
from alignjax.models.config import TransformerConfig
from alignjax.sampling import generate, transforms
from alignjax.training import optim

MODEL = TransformerConfig(
    vocab_size=workload.VOCAB,
    layers=workload.LAYERS,
    width=workload.WIDTH,
    heads=workload.HEADS,
    kv_heads=workload.HEADS,
    head_dim=workload.HEAD_DIM,
    ff=workload.FF,
    rope_theta=float(workload.THETA),
    norm_eps=workload.NORM_EPS,
)


def score(frozen: Any, samples: Any, columns: Any) -> np.ndarray:
    """[R] rewards of completions, row by row on the host."""
    tokens, mask = np.asarray(samples.tokens), np.asarray(samples.mask)
    return np.array([workload.reward(t[m]) for t, m in zip(tokens, mask, strict=True)], np.float32)


def limited(make: Any, lengths: np.ndarray, *args: Any, **options: Any) -> Any:
    """The sampler that `make` makes, whose rows end at these lengths."""
    run = make(*args, **options)
    return functools.partial(run, options=transforms.RowOptions(limit=lengths))


def iterations(task: workload.Task, turns: workload.Turns) -> None:
    case, count, micro = task
    model = transformer.transformer(MODEL)
    config = grpo.GrpoConfig(
        method="grpo",
        reward="gold",
        group=workload.GROUP,
        kl_weight=workload.BETA,
        pack=bool(case.median),
        sampling=transforms.SamplingConfig(max_new_tokens=case.new, rungs=4),
    )
    make = functools.partial(limited, generate.make_generate, case.lengths())
    with mock.patch.object(generate, "make_generate", make):
        method = policy_gradient.policy_gradient(
            model,
            config,
            reward=score,
            eos=-1,
            pad=workload.PAD,
            prompts=case.prompts,
            micro_batches=micro,
        )
    settings = optim.OptimConfig(**workload.OPTIM, schedule="constant", warmup_steps=0)
    params = jax.jit(model.init)(jax.random.key(0))
    tx = optim.make_optimizer(settings, params, count)
    state = training.initial_state(method, tx, start={"policy": params})
    frozen = {"reference": params}
    turns.ready(alignjax=alignjax.__version__, jax=jax.__version__)

    def batch(step: int) -> dict[str, np.ndarray]:
        return {
            "prompts": case.batch(step),
            "lengths": np.full(case.prompts, case.prompt, np.int32),
            "index": np.arange(case.prompts, dtype=np.int32),
        }

    run = {"state": state, "frozen": frozen, "until": count, "micro_batches": micro}
    steps = training.steps(method, batch, tx, **run)
    del state, run
    for _ in range(count):
        turns.begin()
        state, metrics = next(steps)
        jax.block_until_ready((state, metrics))
        turns.end(loss=float(metrics["loss"].value))


if __name__ == "__main__":
    iterations(workload.task(), workload.Turns())
